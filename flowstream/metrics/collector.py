"""Observations to metric families. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.utils import floatToGoString

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, RecordAmount
from flowstream.delivery.condition import Condition
from flowstream.metrics.names import METRICS
from flowstream.records.text import interface_name, utf8_text
from flowstream.streams import FLOW_STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.core import Metric as Family

    from flowstream.accounting.snapshot import Snapshot
    from flowstream.histogram import Distribution
    from flowstream.metrics.names import Metric
    from flowstream.metrics.observation import Observation, Spool

_KINDS: Final = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_NOTHING: Final = RecordAmount()


def families_of(seen: Observation) -> list[Family]:
    """Return the metrics of an observation, in the order of ``METRICS``."""
    families = _Families()
    _add_run(families, seen)
    for labels, snapshot in _by_labels(seen.snapshots).items():
        _add_attachment(families, labels, snapshot)
    _add_spool(families, seen.spool)
    _add_stages(families, seen)
    return families.all()


class _Families:
    """The families of one scrape, by the name of the metric."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {each.name: _family(each) for each in METRICS.values()}

    def add(self, name: str, value: float, *labels: str) -> None:
        self._made[f"flowstream_{name}"].add_metric(labels, value)

    def add_info(self, name: str, *values: str) -> None:
        metric = METRICS[f"flowstream_{name}"]
        named = dict(zip(metric.labels, values, strict=True))
        self._made[metric.name].add_metric((), named)

    def add_histogram(self, name: str, its: Distribution, *labels: str) -> None:
        bounds = [*map(floatToGoString, its.bounds), "+Inf"]
        buckets = [*zip(bounds, its.cumulative, strict=True)]
        self._made[f"flowstream_{name}"].add_metric(labels, buckets, its.sum)

    def all(self) -> list[Family]:
        return [*self._made.values()]


def _family(metric: Metric) -> Any:
    if metric.kind == "info":
        return InfoMetricFamily(metric.family, metric.help)
    kind = _KINDS[metric.kind]
    return kind(metric.family, metric.help, labels=metric.labels, unit=metric.unit)


def _by_labels(snapshots: Iterable[Snapshot]) -> Mapping[tuple[str, ...], Snapshot]:
    """Return the snapshots by labels of which no two are equal.

    An interface may have the name of one that went, whose final counters are still to
    come: the last of a name takes the place of the others.
    """
    return {
        (
            interface_name(each.facts.interface),
            each.key.direction,
            utf8_text(each.facts.netns),
        ): each
        for each in snapshots
    }


def _add_run(families: _Families, seen: Observation) -> None:
    identity = seen.identity
    families.add_info("build_info", __version__)
    sink = utf8_text(seen.sink)
    families.add_info(
        "run_info", identity.host_id.hex(), str(identity.agent_epoch), sink, seen.format
    )
    families.add("sink_up", seen.condition is Condition.PUBLISHING, sink)
    families.add("interfaces", seen.interfaces)
    families.add("attach_failures_total", seen.failed_attaches)
    for result, count in seen.reloads.items():
        families.add("config_reloads_total", count, result)
    families.add("config_last_reload_successful", not seen.last_reload_failed)
    families.add("config_last_reload_success_timestamp_seconds", seen.configured_unix_s)


def _add_attachment(families: _Families, labels: tuple[str, ...], its: Snapshot) -> None:
    facts, kernel, account = its.facts, its.kernel, its.account
    hook = "tc" if facts.mode in ("tcx", "clsact") else "xdp"
    families.add_info(
        "attachment_info", *labels, str(its.key.if_index), hook, facts.mode, str(facts.program_id)
    )
    _add_amount(families, "seen_{}_total", kernel.seen, *labels)
    for reason in terms.NO_FLOW:
        _add_amount(families, "no_flow_{}_total", kernel.no_flow[reason], *labels, reason)
    for stream in FLOW_STREAMS:
        stage = account.stage(stream)
        families.add("encoded_records_total", stage.encoded, *labels, stream)
        families.add("published_records_total", stage.acknowledged, *labels, stream)
    _add_amount(families, "published_{}_total", account.acknowledged, *labels)
    # Kernel and ledger count different causes: no key occurs in both.
    _add_causes(families, "lost", terms.LOSSES, kernel.losses | account.losses, labels)
    _add_causes(families, "in_doubt", terms.IN_DOUBT, account.in_doubt, labels)
    _add_amount(families, "waiting_{}", kernel.recorded.minus(account.amount), *labels)
    _add_records(families, "spooled_{}", account.spool, *labels)


def _add_causes(
    families: _Families,
    name: str,
    known: Iterable[str],
    amounts: Mapping[str, RecordAmount],
    labels: Sequence[str],
) -> None:
    """Add every known cause, also those at 0: a series that appears late hides its increase."""
    for cause in {**dict.fromkeys(known), **amounts}:
        _add_records(families, f"{name}_{{}}_total", amounts.get(cause, _NOTHING), *labels, cause)


def _add_records(families: _Families, name: str, amount: RecordAmount, *labels: str) -> None:
    families.add(name.format("records"), amount.records, *labels)
    _add_amount(families, name, Amount(*amount[1:]), *labels)


def _add_amount(families: _Families, name: str, amount: Amount, *labels: str) -> None:
    families.add(name.format("packets"), amount.packets, *labels)
    families.add(name.format("bytes"), amount.l2_bytes, *labels)


def _add_spool(families: _Families, spool: Spool | None) -> None:
    if spool is None:
        return
    families.add("spool_bytes", spool.state.octets)
    families.add("spool_limit_bytes", math.inf if spool.limit is None else spool.limit)
    if spool.state.oldest_ns:
        families.add("spool_oldest_timestamp_seconds", spool.state.oldest_ns / 1e9)


def _add_stages(families: _Families, seen: Observation) -> None:
    families.add("flow_table_entries", seen.table.entries)
    families.add("flow_table_capacity_entries", seen.table.capacity)
    families.add("flow_table_swaps_total", seen.table.swaps)
    for ring, fill in seen.rings.items():
        families.add("ring_buffer_pending_bytes", fill.used, ring)
        families.add("ring_buffer_size_bytes", fill.capacity, ring)
    families.add("queue_batches", seen.queue.used)
    families.add("queue_capacity_batches", seen.queue.capacity)
    for stream, latency in seen.durations.latency.items():
        families.add_histogram("publish_latency_seconds", latency, stream)
    families.add_histogram("drain_duration_seconds", seen.durations.drain)
    families.add_histogram("encode_duration_seconds", seen.durations.encode)

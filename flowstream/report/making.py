"""Makes the report: reads the topics once, for the audit and for the plots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import flowstream
from flowstream.audit import audit
from flowstream.errors import SourceError
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.reading import Selection
from flowstream.report import accounts, traffic
from flowstream.report.collecting import Collector
from flowstream.report.markup import Html, element, joined
from flowstream.report.page import page
from flowstream.report.runs import Ends
from flowstream.report.summing import Summed, Summing
from flowstream.report.wording import count_text, duration_text, octets_text, scaled, time_text
from flowstream.urls import KafkaUrl, parse_url_or_directory, without_secret
from flowstream.wording import counted, listed

if TYPE_CHECKING:
    from flowstream.audit import Result
    from flowstream.kafka.settings import ClientSettings

EVERYTHING: Final = Selection()
_HOSTS_NAMED: Final = 3


Progressed = Callable[[str, int, int | None], object]
"""Called with the kind of work, how much is done, and the total, an estimate, where known."""


async def report(
    url: str,
    topic_prefix: str = "flowstream",
    *,
    selection: Selection = EVERYTHING,
    choice: str = "",
    progressed: Progressed | None = None,
    client: ClientSettings = DEFAULT_CLIENT,
) -> bytes:
    """Return the page about the topics ``PREFIX.*`` of a cluster or a recording.

    ``selection`` chooses the records of the plots about traffic, ``choice`` says in words
    which; the loss equation and the runs are always of all records. Raises as
    ``flowstream.audit.audit`` does, and SourceError where no record is selected.
    """
    with Collector(selection) as collector:
        result = await audit(
            url,
            topic_prefix,
            progressed=progressed and partial(progressed, "reading"),
            client=client,
            observer=collector,
        )
        collector.finish()
        if choice and not collector.records:
            raise SourceError(f"{url}: none of its flow records matches {choice}")
        summing = Summing(collector)
        done = 0
        for done, _ in enumerate(summing.steps(), 1):
            if progressed:
                progressed("summing", done, None)
            # An interrupt takes effect here.
            await asyncio.sleep(0)
        if progressed:
            progressed("summing", done, done)
        return _page(_Parts(url, topic_prefix, choice, result, collector, summing.result()))


class _Parts(NamedTuple):
    """Everything that the page is made of."""

    url: str
    topic_prefix: str
    choice: str
    result: Result
    collector: Collector
    summed: Summed


def _page(parts: _Parts) -> bytes:
    result, collector, summed = parts.result, parts.collector, parts.summed
    now_ns = time.time_ns()
    hosts = accounts.hosts(result)
    ends = Ends(result, collector.last_counters, _latest_ns(parts, now_ns))
    places = [accounts.seen_at(result, direction) for direction in (0, 1)]
    sections = [
        *traffic.over_time(collector.traffic.series(), places),
        *traffic.rankings(summed),
        *traffic.of_flows(summed, collector.merged_flows),
        traffic.announced(collector.announced.series()),
        accounts.loss_equation(result),
        accounts.runs(result, ends),
    ]
    return page(
        f"Flow report of {listed(hosts, _HOSTS_NAMED)}",
        _lead(parts),
        _facts(parts),
        _verdict(result),
        sections if collector.records else sections[-2:],
        f"Made by flowstream {flowstream.__version__} at {time_text(now_ns)}. The page holds "
        "sums, no records. Plots by plotly.js (MIT licence).",
    )


def _latest_ns(parts: _Parts, now_ns: int) -> int:
    """The time up to which records could have come: of a recording that of its last counters."""
    if isinstance(parse_url_or_directory(parts.url), KafkaUrl):
        return now_ns
    return max((last.time_unix_ns for last in parts.collector.last_counters.values()), default=0)


def _lead(parts: _Parts) -> list[str]:
    source = f"{without_secret(parts.url)}, topics {parts.topic_prefix}.*"
    range_ns = parts.collector.traffic.range_ns
    if range_ns is None:
        return [f"No flow records in {source}."]
    begin_ns, end_ns = range_ns
    lines = [
        (
            f"{time_text(begin_ns)} to {time_text(end_ns)} "
            f"({duration_text(end_ns - begin_ns)}), from {source}"
        )
    ]
    if parts.choice:
        lines.append(
            f"Traffic of the records with {parts.choice}; loss equation and runs of all records."
        )
    rates = parts.collector.sampling - {0, 1}
    if rates:
        named = listed([f"1 packet in {rate:,}" for rate in sorted(rates)], _HOSTS_NAMED)
        lines.append(
            f"Sampled: {named} was looked at. Traffic is an estimate: what was counted, times the "
            "rate. Numbers of flows and the loss equation are as counted."
        )
    return lines


def _facts(parts: _Parts) -> dict[str, str]:
    result, collector, summed = parts.result, parts.collector, parts.summed
    range_ns = collector.traffic.range_ns or (0, 0)
    seconds = (range_ns[1] - range_ns[0]) / 1e9
    octets = collector.traffic.series().amounts.reshape(2, -1).sum(axis=1)
    facts = {
        "Hosts": count_text(len(accounts.hosts(result))),
        "Runs": count_text(len(result.runs)),
        "Flow records": count_text(collector.records),
    }
    for direction, name in enumerate(traffic.DIRECTIONS):
        if octets[direction]:
            rate = f", {scaled(octets[direction] * 8 / seconds, 'bit/s')}" if seconds else ""
            flows = counted(int(summed.flows[direction]), "flow")
            facts[name.capitalize()] = f"{octets_text(octets[direction])}{rate}, {flows}"
    seen = [each.seen.packets for run in result.runs for each in run.interfaces]
    facts["Packets seen, ingress and egress"] = count_text(sum(seen))
    return facts


def _verdict(result: Result) -> Html:
    """Whether the equation holds, with what does not, and the notes."""
    text = (
        "Every packet is accounted for." if result.holds else "Not every packet is accounted for."
    )
    parts = [element("p", text, class_="good" if result.holds else "bad")]
    for title, lines in (
        ("What does not hold", accounts.problems(result)),
        ("Notes", accounts.notes(result)),
    ):
        if lines:
            items = [element("li", line) for line in lines]
            parts.append(
                element(
                    "details",
                    element("summary", f"{title}: {len(lines)}"),
                    element("ul", *items, class_="messages"),
                )
            )
    return joined(parts)

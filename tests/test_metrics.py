"""Metrics of a made-up observation: names, values, formats."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import parser
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics import parser as openmetrics_parser
from support.observed import observation, snapshot
from support.records import EPOCH

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.account import Account
from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.snapshot import SpoolState
from flowstream.delivery.condition import Condition
from flowstream.histogram import Histogram
from flowstream.metrics.collector import families_of
from flowstream.metrics.names import METRICS
from flowstream.metrics.observation import Observation, Spool

if TYPE_CHECKING:
    from collections.abc import Iterable

GOLDEN = (Path(__file__).parent / "golden" / "metrics.txt").read_text(encoding="utf-8")
WAITING = Amount(
    1_009 - 5 - 2 - 3 - 700 - 19 - 23, 100_003 - 301 - 61 - 181 - 70_001 - 1_901 - 2_309
)


class Collected:
    def __init__(self, seen: Observation) -> None:
        self.families = families_of(seen)

    def collect(self) -> Iterable[object]:
        return self.families


def samples(seen: Observation) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, as a client reads them; none may be there twice."""
    text = generate_latest(Collected(seen)).decode()
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def value(seen: Observation, name: str, **labels: str) -> float:
    return samples(seen)[f"flowstream_{name}", tuple(sorted(labels.items()))]


def eth0(**labels: str) -> dict[str, str]:
    return {"interface": "eth0", "direction": "ingress", "netns": "", **labels}


def test_names_types_units_and_labels_stay_what_they_are():
    now = [
        f"{each.name} {each.kind} {each.unit or '-'} {','.join(each.labels) or '-'}"
        for each in METRICS.values()
    ]
    assert GOLDEN.splitlines() == now


def test_every_metric_of_the_list_is_in_a_scrape():
    scraped = {name for name, _ in samples(observation())}
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    wanted = {
        each.name + suffix
        for each in METRICS.values()
        for suffix in suffixes.get(each.kind, ("",))
    }
    assert scraped == wanted


def test_every_sample_has_the_labels_of_the_list():
    own = {each.name: set(each.labels) for each in METRICS.values()}
    for name, labels in samples(observation()):
        base, _, suffix = name.rpartition("_")
        if suffix in ("bucket", "sum", "count"):
            more = {"le"} if suffix == "bucket" else set()
            assert dict(labels).keys() == own[base] | more
        else:
            assert dict(labels).keys() == own[name]


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("build_info", {"version": __version__}, 1),
        (
            "run_info",
            {
                "host_id": "000102030405060708090a0b0c0d0e0f",
                "agent_epoch": str(EPOCH),
                "sink": "kafka://10.0.0.1:9092",
                "format": "json",
            },
            1,
        ),
        ("seen_packets_total", eth0(), 1_009),
        ("seen_bytes_total", eth0(), 100_003),
        ("no_flow_packets_total", eth0(reason="non_ip"), 5),
        ("no_flow_bytes_total", eth0(reason="malformed"), 61),
        ("no_flow_packets_total", eth0(reason="filtered_out"), 0),
        ("encoded_records_total", eth0(stream="flows"), 80),
        ("encoded_records_total", eth0(stream="new_flows"), 41),
        ("published_records_total", eth0(stream="flows"), 60),
        ("published_records_total", eth0(stream="new_flows"), 37),
        ("published_packets_total", eth0(), 700),
        ("published_bytes_total", eth0(), 70_001),
        ("lost_records_total", eth0(cause="overflow_lost"), 3),
        ("lost_records_total", eth0(cause="announcement_lost"), 17),
        ("lost_packets_total", eth0(cause="delivery_timeout"), 19),
        ("lost_bytes_total", eth0(cause="delivery_timeout"), 1_901),
        ("lost_packets_total", eth0(cause="io_error"), 0),
        ("in_doubt_records_total", eth0(cause="shutdown"), 4),
        ("in_doubt_packets_total", eth0(cause="shutdown"), 23),
        ("in_doubt_bytes_total", eth0(cause="agent_killed"), 0),
        ("waiting_packets", eth0(), WAITING.packets),
        ("waiting_bytes", eth0(), WAITING.l2_bytes),
        ("spooled_records", eth0(), 9),
        ("spooled_packets", eth0(), 101),
        ("spooled_bytes", eth0(), 10_103),
        ("spool_bytes", {}, 4_096),
        ("spool_limit_bytes", {}, 1 << 30),
        ("spool_oldest_timestamp_seconds", {}, 1_700_000_000.5),
        ("flow_table_entries", {}, 7),
        ("flow_table_capacity_entries", {}, 64),
        ("flow_table_swaps_total", {}, 11),
        ("ring_buffer_pending_bytes", {"ring": "overflow"}, 264),
        ("ring_buffer_size_bytes", {"ring": "announcements"}, 1 << 22),
        ("queue_batches", {}, 3),
        ("queue_capacity_batches", {}, 16),
        ("publish_latency_seconds_bucket", {"stream": "flows", "le": "0.5"}, 1),
        ("publish_latency_seconds_bucket", {"stream": "flows", "le": "1.0"}, 2),
        ("publish_latency_seconds_bucket", {"stream": "flows", "le": "2.5"}, 2),
        ("publish_latency_seconds_bucket", {"stream": "flows", "le": "+Inf"}, 3),
        ("publish_latency_seconds_count", {"stream": "flows"}, 3),
        ("publish_latency_seconds_sum", {"stream": "flows"}, 8.25),
        ("publish_latency_seconds_count", {"stream": "new_flows"}, 0),
        ("sink_up", {"sink": "kafka://10.0.0.1:9092"}, 0),
        ("interfaces", {}, 2),
        ("attach_failures_total", {}, 13),
        ("config_reloads_total", {"result": "success"}, 2),
        ("config_reloads_total", {"result": "failure"}, 1),
        ("config_last_reload_successful", {}, 0),
        ("config_last_reload_success_timestamp_seconds", {}, 1_700_000_000.25),
    ],
)
def test_a_metric_has_its_value(name, labels, expected):
    assert value(observation(), name, **labels) == expected


@pytest.mark.parametrize(
    ("mode", "hook"), [("native", "xdp"), ("generic", "xdp"), ("tcx", "tc"), ("clsact", "tc")]
)
def test_an_attachment_says_its_hook_and_mode(mode, hook):
    facts = Facts("eth0", netns="blue", mode=mode, program_id=41)
    seen = observation(snapshot(AttachmentKey(3, 1), facts))
    labels = {"interface": "eth0", "direction": "egress", "netns": "blue", "if_index": "3"}
    assert value(seen, "attachment_info", **labels, hook=hook, mode=mode, program_id="41") == 1


def test_every_cause_and_reason_is_there_from_the_start():
    found = samples(observation())
    for name, label, known in (
        ("no_flow_packets_total", "reason", terms.NO_FLOW),
        ("lost_records_total", "cause", terms.LOSSES),
        ("in_doubt_records_total", "cause", terms.IN_DOUBT),
    ):
        names = [dict(labels)[label] for each, labels in found if each == f"flowstream_{name}"]
        assert sorted(names) == sorted(known)


def test_the_sink_is_up_while_records_are_published():
    seen = dataclasses.replace(observation(), condition=Condition.PUBLISHING)
    assert value(seen, "sink_up", sink="kafka://10.0.0.1:9092") == 1


def test_an_unlimited_spool_has_no_end():
    seen = dataclasses.replace(observation(), spool=Spool(SpoolState(), None))
    assert value(seen, "spool_limit_bytes") == math.inf
    assert ("flowstream_spool_oldest_timestamp_seconds", ()) not in samples(seen)


def test_without_a_spool_there_are_no_metrics_of_one():
    names = {name for name, _ in samples(dataclasses.replace(observation(), spool=None))}
    assert not [name for name in names if name.startswith("flowstream_spool_")]


@pytest.mark.parametrize("if_index", [2, 8])
def test_the_interface_that_is_there_takes_the_series_of_one_of_its_name_that_went(if_index):
    there = snapshot(AttachmentKey(if_index), Facts("eth0"))
    there = dataclasses.replace(there, account=Account())
    seen = observation(snapshot(AttachmentKey(3), Facts("eth0")), there)
    assert value(seen, "published_packets_total", **eth0()) == 0


def test_names_that_are_no_text_are_shown_all_the_same():
    facts = Facts("a\udcffb", netns='"\\\n')
    seen = observation(snapshot(AttachmentKey(3), facts))
    labels = {"interface": "a?b", "direction": "ingress", "netns": '"\\\n'}
    assert value(seen, "seen_packets_total", **labels) == 1_009
    seen = dataclasses.replace(seen, sink="file:/a\udcff")
    assert value(seen, "sink_up", sink="file:/a?") == 0


def test_openmetrics_is_valid_and_has_the_units():
    text = openmetrics_exposition.generate_latest(Collected(observation())).decode()
    families = [*openmetrics_parser.text_string_to_metric_families(text)]
    assert [(each.name, each.type, each.unit) for each in families] == [
        (each.family, each.kind, each.unit) for each in METRICS.values()
    ]


def test_a_histogram_counts_values_at_a_bound_below_it():
    made = Histogram((1.0, 2.0))
    made.observe(1.0)
    made.observe_all(np.array([0.25, 2.0, 2.5]))
    assert made.distribution() == ((1.0, 2.0), (2, 3, 4), 5.75)

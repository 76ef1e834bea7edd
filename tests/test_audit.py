from __future__ import annotations

import msgspec
import numpy as np
import pytest
from support.audited import problems_of, result_of, sums
from support.published import (
    ANNOUNCEMENTS,
    EGRESS,
    EPOCH,
    FLOWS,
    HOST,
    IN_DOUBT,
    INGRESS,
    LOSSES,
    LOST,
    MALFORMED,
    NO_FLOW,
    NON_IP,
    Published,
    publish,
    stages,
)
from support.records import random_flows

from flowstream.audit import Amount, Audit, Result, audit
from flowstream.encode import stamp
from flowstream.errors import SourceError, UsageError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import Amount as RecordAmount
from flowstream.records import Loss, StageCounts

STEP = 1_024  # of agent_epoch
FORMATS = ["json", "msgpack", "protobuf", "avro"]
AMOUNT = ("packets", "l2_bytes")
BOTH_DIRECTIONS = ((3, INGRESS), (3, EGRESS))
TWO_INTERFACES = ((3, INGRESS), (5, INGRESS))


@pytest.fixture(params=FORMATS)
def record_format(request) -> str:
    return request.param


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_a_whole_run_holds(record_format, batch):
    published = Published(record_format)
    result = result_of(published, batch=batch)
    assert result.holds
    (run,) = result.runs
    assert (run.host_id, run.host, run.agent_epoch) == (HOST.hex(), "host-a", EPOCH)
    assert (run.problems, run.notes) == ([], [])
    (interface,) = run.interfaces
    assert (interface.if_index, interface.if_name, interface.flow_direction) == (3, "veth3", 0)
    assert (interface.counters, interface.final) == (True, True)
    packets, octets = sums(published.flows)
    others = (NON_IP, MALFORMED, LOST)
    assert interface.flows == Amount(packets, octets)
    assert interface.seen == Amount(
        packets + sum(each[0] for each in others), octets + sum(each[1] for each in others)
    )
    assert interface.no_flow == {
        "non_ip": Amount(*NON_IP),
        "malformed": Amount(*MALFORMED),
        "sampled_out": Amount(0, 0),
        "counted": Amount(0, 0),
    }
    assert interface.losses == LOSSES
    assert interface.in_doubt == IN_DOUBT
    assert interface.difference == Amount(0, 0)
    flows, new_flows, counters = run.topics
    assert (flows.topic, flows.records, flows.first_seq, flows.last_seq) == (
        "flowstream.flows",
        31,
        0,
        30,
    )
    assert (flows.expected, flows.missing, flows.duplicates, flows.partitions) == (31, 0, 0, 5)
    assert (new_flows.records, new_flows.expected) == (13, 13)
    assert (counters.records, counters.last_seq) == (2, 1)


@pytest.mark.parametrize("lost", [0, 17, 30])
def test_a_missing_record_is_found_also_at_the_ends(record_format, lost):
    published = Published(record_format)
    packets, octets = sums(published.flows[[lost]])
    del published.values[lost]
    assert problems_of(published) == [
        (
            f"veth3 ingress: difference of +{packets:,} packets and +{octets:,} octets: "
            "seen, but neither published nor counted as lost"
        ),
        f"flowstream.flows: 1 record is missing without a cause (1 not there; seq {lost})",
    ]


def test_missing_records_that_were_counted_as_lost_hold(record_format):
    published = Published(record_format)
    del published.values[5:8]
    published.change_counters(
        1,
        losses=LOSSES | {"delivery_timeout": Loss(3, *sums(published.flows[5:8]))},
        stages=stages(StageCounts(42, 31, 31, 28, 0, 3, 0)),
    )
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == ["flowstream.flows: 3 records are missing, counted as lost"]
    assert result.runs[0].topics[0].gaps == [(5, 7)]


def test_more_missing_than_counted_is_named(record_format):
    published = Published(record_format)
    del published.values[5:8]
    published.change_counters(1, stages=stages(StageCounts(42, 31, 31, 29, 0, 2, 0)))
    assert problems_of(published)[1] == (
        "flowstream.flows: 1 record is missing without a cause "
        "(3 not there, 2 counted as lost; seq 5-7)"
    )


def test_a_record_counted_as_lost_that_is_there_is_counted_twice(record_format):
    published = Published(record_format)
    packets, octets = sums(published.flows[[4]])
    published.change_counters(
        1,
        losses=LOSSES | {"delivery_timeout": Loss(1, packets, octets)},
        stages=stages(StageCounts(42, 31, 31, 30, 0, 1, 0)),
    )
    result = result_of(published)
    assert result.runs[0].problems == [
        (
            f"veth3 ingress: difference of -{packets:,} packets and -{octets:,} octets: "
            "published or counted as lost, but not seen"
        )
    ]
    assert result.runs[0].notes == [
        "flowstream.flows: 1 record that was counted as lost but published all the same"
    ]


def test_a_duplicate_is_told_and_summed_once(record_format):
    published = Published(record_format)
    published.values += [published.values[3], published.values[3], published.values[32]]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.flows: 2 duplicates, recognised by seq and not summed",
        "flowstream.new_flows: 1 duplicate, recognised by seq and not summed",
    ]
    assert [topic.duplicates for topic in result.runs[0].topics] == [2, 1, 0]


def test_a_seq_given_to_two_records_is_found(record_format):
    published = Published(record_format)
    published.flows["seq"][7] = 6
    published.values[7] = ("flowstream.flows", published.encode(published.flows)[7])
    _, conflict, missing = problems_of(published)
    assert conflict.startswith("flowstream.flows: 1 seq occur with different contents")
    assert missing.startswith("flowstream.flows: 1 record is missing")


def test_an_uncounted_loss_is_found():
    published = Published()
    published.change_counters(1, losses={})
    assert problems_of(published) == [
        (
            "veth3 ingress: difference of +19 packets and +1,997 octets: "
            "seen, but neither published nor counted as lost"
        )
    ]


@pytest.mark.parametrize(("octets", "sign"), [(-60, "-60"), (60, "+60")])
def test_octets_may_differ_while_the_packets_are_right(octets, sign):
    published = Published()
    published.change_counters(1, seen_l2_bytes=published.counters[1].seen_l2_bytes + octets)
    (problem,) = problems_of(published)
    assert problem.startswith(f"veth3 ingress: difference of +0 packets and {sign} octets: ")


@pytest.mark.parametrize("reason", [*NO_FLOW, "a reason of a newer version"])
def test_every_reason_counts(record_format, reason):
    published = Published(record_format)
    before = NO_FLOW.get(reason, RecordAmount(0, 0))
    more = RecordAmount(before.packets + 7, before.l2_bytes + 701)
    published.change_counters(1, no_flow=NO_FLOW | {reason: more})
    (problem,) = problems_of(published)
    assert problem.startswith("veth3 ingress: difference of -7 packets and -701 octets")
    (interface,) = result_of(published).runs[0].interfaces
    assert interface.no_flow[reason] == Amount(more.packets, more.l2_bytes)


@pytest.mark.parametrize("cause", [*LOSSES, "a cause of a newer version"])
def test_every_cause_counts(record_format, cause):
    published = Published(record_format)
    before = LOSSES.get(cause, Loss(0, 0, 0))
    more = Loss(before.records + 1, before.packets + 7, before.l2_bytes + 701)
    published.change_counters(1, losses=LOSSES | {cause: more})
    (problem,) = problems_of(published)
    assert problem.startswith("veth3 ingress: difference of -7 packets and -701 octets")
    (interface,) = result_of(published).runs[0].interfaces
    assert interface.losses[cause] == more


def test_known_terms_come_first():
    published = Published()
    published.change_counters(
        1, no_flow={"aaa": RecordAmount(0, 0), **dict(reversed(NO_FLOW.items()))}
    )
    (interface,) = result_of(published).runs[0].interfaces
    assert list(interface.no_flow) == [*NO_FLOW, "aaa"]


def test_a_run_without_final_counters_did_not_end_cleanly():
    published = Published()
    published.change_counters(1, final=False)
    del published.values[4]
    packets, octets = sums(published.flows[[4]])
    problems = problems_of(published)
    assert problems[0] == (
        "veth3 ingress: run did not end cleanly: no final counters, so the equation cannot be "
        f"exact (difference +{packets:,} packets and +{octets:,} octets)"
    )
    assert problems[1] == (
        "flowstream.flows: 1 record is missing of a run that has no end: on their way, or lost "
        "when it was killed (1 not there; seq 4)"
    )


def test_a_run_without_counters_has_nothing_to_compare_with():
    published = Published()
    published.counters.clear()
    assert problems_of(published) == [
        "ifindex 3 ingress: published records, but no counters record to compare them with"
    ]


def test_a_run_with_nothing_but_announcements_is_judged(record_format):
    killed = Published(record_format, epoch=EPOCH + STEP)
    killed.values = killed.values[FLOWS:]
    killed.counters.clear()
    assert problems_of(Published(record_format), killed) == [
        "ifindex 3 ingress: published records, but no counters record to compare them with"
    ]


def test_an_interface_with_nothing_but_announcements_is_judged(record_format):
    published = Published(record_format)
    announced = np.repeat(random_flows(1), 1_000).astype(FLOW_RECORD)
    announced["record_type"], announced["if_index"], announced["flow_direction"] = 2, 9, EGRESS
    for name in ("packets", "bytes", "l2_bytes"):
        announced[name] = 0
    stamp(announced, published.identity, ANNOUNCEMENTS)
    values = published.encode(announced)
    published.values += [("flowstream.new_flows", value) for value in values]
    assert problems_of(published) == [
        "ifindex 9 egress: published records, but no counters record to compare them with"
    ]
    (run,) = result_of(published).runs
    assert (run.interfaces[1].flows, run.topics[1].records) == (Amount(0, 0), 1_013)


def test_a_run_with_nothing_but_counters_is_judged(record_format):
    published = Published(record_format)
    published.values.clear()
    problems = problems_of(published)
    packets, octets = sums(published.flows)
    assert problems == [
        (
            f"veth3 ingress: difference of +{packets:,} packets and +{octets:,} octets: "
            "seen, but neither published nor counted as lost"
        ),
        "flowstream.flows: 31 records are missing without a cause (31 not there; seq 0-30)",
        ("flowstream.new_flows: 13 records are missing without a cause (13 not there; seq 0-12)"),
    ]


def test_sums_have_no_limit(record_format):
    published = Published(record_format)
    highest = 2**63 - 1
    for name in ("packets", "bytes", "l2_bytes"):
        published.flows[name][:2] = highest
    values = published.encode(published.flows)
    published.values[:2] = [("flowstream.flows", value) for value in values[:2]]
    expected = [2 * highest + int(published.flows[name][2:].sum()) for name in AMOUNT]
    (interface,) = result_of(published, batch=10_000).runs[0].interfaces
    assert interface.flows == Amount(*expected)
    assert interface.difference.packets == interface.seen.packets - expected[0] - 17 - 3 - 19


def test_a_missing_counters_record_loses_nothing():
    published = Published()
    published.change_counters(1, seq=5)
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        (
            "flowstream.counters: 4 records are missing (seq 1-4), "
            "which loses nothing of interfaces with a later one: the counts are cumulative"
        )
    ]


def test_the_last_counters_record_is_the_one_with_the_highest_seq():
    published = Published()
    published.change_counters(0, seen_packets=1, losses={})
    published.counters.reverse()
    assert result_of(published, batch=1).holds


def test_two_runs_in_one_topic_are_apart(record_format):
    first, second = Published(record_format), Published(record_format, epoch=EPOCH + STEP)
    other_host = Published(record_format, host_id=bytes(16))
    result = result_of(second, first, other_host)
    assert result.holds
    assert [(run.agent_epoch - EPOCH, run.host_id) for run in result.runs] == [
        (0, bytes(16).hex()),
        (0, HOST.hex()),
        (STEP, HOST.hex()),
    ]
    del second.values[3]
    result = result_of(first, second, other_host)
    assert [not run.problems for run in result.runs] == [True, True, False]


@pytest.mark.parametrize(
    ("attachments", "labels"),
    [
        (TWO_INTERFACES, ["veth3 ingress", "veth5 ingress"]),
        (BOTH_DIRECTIONS, ["veth3 ingress", "veth3 egress"]),
    ],
)
def test_every_attachment_has_its_equation(record_format, attachments, labels):
    published = Published(record_format, attachments)
    assert problems_of(published) == []
    interfaces = result_of(published).runs[0].interfaces
    assert [interface.label for interface in interfaces] == labels
    assert [each.flows for each in interfaces] == [
        Amount(*sums(part)) for part in (published.flows[:FLOWS], published.flows[FLOWS:])
    ]
    seen = published.counters[3].seen_packets
    published.change_counters(3, seen_packets=seen + 23)
    assert [text.split(":")[0] for text in problems_of(published)] == labels[1:]
    # The sum over both is right again; the attachments are not.
    seen = published.counters[2].seen_packets
    published.change_counters(2, seen_packets=seen - 23)
    assert [text.split(":")[0] for text in problems_of(published)] == labels


def test_one_interface_without_final_counters_is_named():
    published = Published(attachments=TWO_INTERFACES)
    del published.counters[2]
    (problem,) = problems_of(published)
    assert problem.startswith("veth3 ingress: run did not end cleanly")


@pytest.mark.parametrize("wrong", [31, 1_000_003, 2**63 - 1])
def test_a_wrong_seq_is_found(record_format, wrong):
    published = Published(record_format)
    published.flows["seq"][9] = wrong
    published.values[9] = ("flowstream.flows", published.encode(published.flows)[9])
    assert problems_of(published) == [
        "flowstream.flows: 1 record is missing without a cause (1 not there; seq 9)",
        f"flowstream.flows: seq {wrong:,} lies beyond the 31 records that the run made",
    ]


def test_another_prefix_means_other_topics():
    assert Audit("site-1").topics == ["site-1.flows", "site-1.new_flows", "site-1.counters"]


def test_the_result_is_one_json_document():
    result = result_of(Published())
    document = msgspec.json.encode(result)
    assert msgspec.json.decode(document, type=Result) == result
    assert msgspec.json.decode(document)["runs"][0]["topics"][0]["stream"] == "flows"


@pytest.mark.anyio
async def test_a_recording(record_format, tmp_path):
    url = f"file:{tmp_path}/recording"
    published = Published(record_format, TWO_INTERFACES)
    await publish(url, record_format, published)
    for way in (url, f"{tmp_path}/recording"):
        result = await audit(way)
        assert result == result_of(published)
        assert result.holds


@pytest.mark.anyio
async def test_a_cluster(broker_factory):
    broker = broker_factory()
    first, second = Published("json"), Published("msgpack", epoch=EPOCH + STEP)
    await publish(broker.url, "json", first)
    assert await audit(broker.url) == result_of(first)
    del second.values[3]
    await publish(broker.url, "msgpack", second)
    result = await audit(broker.url)
    assert result.runs == result_of(first, second).runs
    assert [text.partition(": ")[0] for text in result.warnings] == 3 * [
        "values of 2 formats in one topic"
    ]
    assert [not run.problems for run in result.runs] == [True, False]


@pytest.mark.anyio
async def test_a_recording_cut_short_is_told(tmp_path):
    url = f"file:{tmp_path}/recording"
    await publish(url, "json", Published("json"))
    segments = tmp_path.glob("recording/flowstream.flows-*/*.log")
    segment = max(segments, key=lambda path: path.stat().st_size)
    segment.write_bytes(segment.read_bytes()[:-1])
    result = await audit(url)
    (warning,) = result.warnings
    assert "the last batch is cut short" in warning
    assert not result.holds
    assert any("1 record is missing without a cause" in text for text in result.runs[0].problems)


@pytest.mark.anyio
async def test_what_cannot_be_audited(tmp_path):
    with pytest.raises(SourceError, match="No such file or directory"):
        await audit(f"{tmp_path}/none")
    with pytest.raises(SourceError, match=r"no topic flowstream\.flows"):
        await audit(f"{tmp_path}")
    with pytest.raises(UsageError, match="cannot be read back"):
        await audit("stdout:")
    empty = Published()
    empty.values.clear()
    empty.counters.clear()
    await publish(f"file:{tmp_path}/empty", "json", empty)
    with pytest.raises(SourceError, match=r"empty: no records in flowstream\.flows, "):
        await audit(f"file:{tmp_path}/empty")

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import sys
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    PARTITIONS,
    Published,
    publish,
    stages,
)
from support.records import COUNTERS, random_flows

from flowstream.audit import Amount, Audit, Result, audit, tables
from flowstream.audit.seqs import SeqSet
from flowstream.encode.identity import stamp
from flowstream.errors import DecodeError, SourceError, UsageError
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.messages import Message
from flowstream.records import Amount as RecordAmount
from flowstream.records import Loss, StageCounts, decode

STEP = 1_024  # of agent_epoch
FORMATS = ["json", "msgpack", "protobuf", "avro"]
AMOUNT = ("packets", "l2_bytes")
BOTH_DIRECTIONS = ((3, INGRESS), (3, EGRESS))
TWO_INTERFACES = ((3, INGRESS), (5, INGRESS))


def result_of(*published: Published, batch: int = 7) -> Result:
    messages = [message for each in published for message in each.messages()]
    accounts = Audit()
    for start in range(0, len(messages), batch):
        accounts.add(messages[start : start + batch])
    return accounts.result()


def problems_of(*published: Published) -> list[str]:
    result = result_of(*published)
    problems = [problem for run in result.runs for problem in run.problems]
    assert result.holds == (not problems)
    return problems


def sums(flows) -> tuple[int, int]:
    return int(flows["packets"].sum()), int(flows["l2_bytes"].sum())


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
        f"flowstream.flows: 1 records are missing without a cause (1 are not there; seq {lost})",
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
        "flowstream.flows: 1 records are missing without a cause "
        "(3 are not there, 2 were counted as lost; seq 5-7)"
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
        "flowstream.flows: 1 records that were counted as lost are there all the same"
    ]


def test_a_duplicate_is_told_and_summed_once(record_format):
    published = Published(record_format)
    published.values += [published.values[3], published.values[3], published.values[32]]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.flows: 2 duplicates, recognised by seq and not summed",
        "flowstream.new_flows: 1 duplicates, recognised by seq and not summed",
    ]
    assert [topic.duplicates for topic in result.runs[0].topics] == [2, 1, 0]


def test_a_seq_given_to_two_records_is_found(record_format):
    published = Published(record_format)
    published.flows["seq"][7] = 6
    published.values[7] = ("flowstream.flows", published.encode(published.flows)[7])
    assert "flowstream.flows: 1 records are missing" in problems_of(published)[1]


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


def with_doubt(record_format: str, missing: int, *, doubtful: int = 5, failed: int = 0):
    """A run whose last flow records are in doubt and before these failed; some are missing."""
    published = Published(record_format)
    given_up = published.flows[FLOWS - doubtful - failed : FLOWS - doubtful]
    counts = StageCounts(42, FLOWS, FLOWS, FLOWS - doubtful - failed, 0, failed, 0)
    published.change_counters(
        1,
        losses=LOSSES | {"delivery_timeout": Loss(failed, *sums(given_up))},
        in_doubt=IN_DOUBT | {"shutdown": Loss(doubtful, *sums(published.flows[-doubtful:]))},
        stages=stages(counts),
    )
    del published.values[FLOWS - missing : FLOWS]
    del published.values[FLOWS - doubtful - failed : FLOWS - doubtful]
    return published


@pytest.mark.parametrize("failed", [0, 2])
@pytest.mark.parametrize("missing", [0, 1, 5])
def test_records_in_doubt_may_be_published_or_not(record_format, missing, failed):
    published = with_doubt(record_format, missing, failed=failed)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    packets, octets = sums(published.flows[-5:])
    assert run.interfaces[0].in_doubt["shutdown"] == Loss(5, packets, octets)
    assert run.interfaces[0].difference == Amount(*sums(published.flows[FLOWS - missing :]))
    assert run.topics[0].in_doubt == 5
    assert run.notes[0] == (
        f"veth3 ingress: {packets:,} packets and {octets:,} octets in doubt: "
        "sent and never answered"
    )
    settled = f"flowstream.flows: 5 records in doubt, {5 - missing} of them published"
    assert settled in run.notes


def test_no_more_records_may_be_missing_than_are_in_doubt(record_format):
    published = with_doubt(record_format, 5)
    # A record of nothing: the equation does not show that it is missing.
    published.flows["packets"][0] = published.flows["l2_bytes"][0] = 0
    packets, octets = sums(published.flows)
    published.change_counters(
        1,
        seen_packets=packets + NON_IP[0] + MALFORMED[0] + LOST[0],
        seen_l2_bytes=octets + NON_IP[1] + MALFORMED[1] + LOST[1],
    )
    del published.values[0]
    assert problems_of(published) == [
        (
            "flowstream.flows: 1 records are missing without a cause "
            "(6 are not there, 5 were in doubt; seq 0, 26-30)"
        )
    ]


def test_more_packets_are_missing_than_are_in_doubt(record_format):
    published = with_doubt(record_format, 5)
    packets, octets = sums(published.flows[-5:])
    for seen, problem in (
        ({"packets": 1, "l2_bytes": 0}, f"+{packets + 1:,} packets and +{octets:,} octets"),
        ({"packets": 0, "l2_bytes": 1}, f"+{packets:,} packets and +{octets + 1:,} octets"),
    ):
        record = published.counters[1]
        published.change_counters(
            1,
            seen_packets=record.seen_packets + seen["packets"],
            seen_l2_bytes=record.seen_l2_bytes + seen["l2_bytes"],
        )
        assert problems_of(published) == [
            (
                f"veth3 ingress: difference of {problem}: seen, but neither published nor counted "
                f"as lost, and only {packets:,} packets and {octets:,} octets are in doubt"
            )
        ]
        published.counters[1] = record


@pytest.mark.parametrize("unit", ["seen_packets", "seen_l2_bytes"])
def test_a_difference_below_zero_is_never_in_doubt(record_format, unit):
    published = with_doubt(record_format, 0)
    published.change_counters(1, **{unit: getattr(published.counters[1], unit) - 1})
    (problem,) = problems_of(published)
    assert problem.endswith("published or counted as lost, but not seen")


def test_where_all_in_doubt_was_published_nothing_may_differ(record_format):
    published = with_doubt(record_format, 0)
    published.change_counters(1, seen_packets=published.counters[1].seen_packets + 1)
    assert problems_of(published) == [
        (
            "veth3 ingress: difference of +1 packets and +0 octets: seen, but neither published "
            "nor counted as lost, and every record in doubt was published"
        )
    ]


def test_announcements_in_doubt_settle_no_flow_record(record_format):
    published = Published(record_format)
    flows = StageCounts(42, FLOWS, FLOWS, FLOWS, 0, 0, 0)
    announced = StageCounts(*[ANNOUNCEMENTS] * 3, ANNOUNCEMENTS - 3, 0, 0, 0)
    published.change_counters(
        1,
        in_doubt=IN_DOUBT | {"delivery_timeout": Loss(3, 0, 0)},
        stages={"flows": flows, "new_flows": announced},
    )
    del published.values[FLOWS + 4 : FLOWS + 6]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.new_flows: 3 records in doubt, 1 of them published"
    ]
    del published.values[4]
    assert [text.partition(" (")[0] for text in problems_of(published)] == [
        "veth3 ingress: difference of +{:,} packets and +{:,} octets: seen, but neither "
        "published nor counted as lost".format(*sums(published.flows[[4]])),
        "flowstream.flows: 1 records are missing without a cause",
    ]


def test_a_run_without_final_counters_did_not_end_cleanly():
    published = Published()
    del published.counters[1]
    del published.values[4]
    packets, octets = sums(published.flows[[4]])
    problems = problems_of(published)
    assert problems[0] == (
        "veth3 ingress: run did not end cleanly: no final counters, so the equation cannot be "
        f"exact (difference +{packets:,} packets and +{octets:,} octets)"
    )
    assert problems[1].endswith("(1 are not there; seq 4)")


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
        "flowstream.flows: 31 records are missing without a cause (31 are not there; seq 0-30)",
        (
            "flowstream.new_flows: 13 records are missing without a cause "
            "(13 are not there; seq 0-12)"
        ),
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
            "which loses nothing: the counts are cumulative"
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
        "flowstream.flows: 1 records are missing without a cause (1 are not there; seq 9)",
        f"flowstream.flows: seq {wrong:,} lies beyond the 31 records that the run made",
    ]


def test_formats_that_are_mixed_in_one_topic_are_told():
    published = Published("json")
    for place, other in enumerate(("msgpack", "protobuf", "avro")):
        published.values[place + 5] = Published(other).values[place + 5]
    assert problems_of(published) == []
    (warning,) = result_of(published).warnings
    assert warning.startswith("values of 4 formats in one topic: ")
    for place, other in enumerate(("msgpack", "protobuf", "avro"), 5):
        where = f"topic flowstream.flows, partition {place % PARTITIONS}, offset {place}"
        assert f"{other} at {where}" in warning
    assert result_of(Published("json"), Published("json", epoch=EPOCH + STEP)).warnings == []


def test_fields_added_at_the_end_are_accepted():
    published, packed = Published("json"), Published("msgpack")
    for number in (3, 4):
        topic, value = packed.values[number]
        published.values[number] = (
            topic,
            value[:2] + bytes([value[2] + 2]) + value[3:] + b"\xa0\x2a",
        )
    topic, value = published.values[5]
    published.values[5] = (topic, value[:-1] + b',"later":[7]}')
    assert problems_of(published) == []


def packed_or_text(old: bytes, new: bytes, old_text: bytes, new_text: bytes):
    return lambda value: value.replace(old, new, 1).replace(old_text, new_text, 1)


BAD = {
    "empty": lambda _: b"",
    "cut": lambda value: value[:-1],
    "text": lambda _: b"hello",
    "registry": lambda value: b"\x00" + value,
    "counters": lambda _: msgspec.msgpack.encode(COUNTERS),
}
# Of the formats that say of every field what it is.
WRONG = {
    "longer": lambda value: value + b"\x00",
    "tag": packed_or_text(b"\xcf", b"\xce", b'"packets":', b'"packets":-'),
    "version": packed_or_text(
        b"\xcc\x01\xcc\x01", b"\xcc\x01\xcc\x00", b'"schema_version":1', b'"schema_version":0'
    ),
}


@pytest.mark.parametrize(
    ("record_format", "damage"),
    [
        *itertools.product(FORMATS, BAD.values()),
        *itertools.product(["json", "msgpack"], WRONG.values()),
    ],
)
def test_an_undecodable_value_is_named_with_its_place(record_format, damage):
    published = Published(record_format)
    topic, value = published.values[11]
    published.values[11] = (topic, damage(value))
    assert published.values[11][1] != value
    messages = published.messages()
    (at,) = (message for message in messages if message.offset == 11)
    with pytest.raises(
        DecodeError, match=f"^topic flowstream.flows, partition {at.partition}, offset 11: "
    ):
        Audit().add(messages)


def judged(value: bytes, topic: str = "flowstream.flows") -> str:
    """What an audit of this one value says against it, nothing if it takes it."""
    try:
        Audit().add([Message(topic, 3, 7, 0, b"", value)])
    except DecodeError as err:
        return str(err)
    return ""


def refused(value: bytes) -> str:
    """What ``decode`` says against a value of the topic flows, with its place."""
    where = "topic flowstream.flows, partition 3, offset 7: "
    try:
        record = decode(value)
    except DecodeError as err:
        return f"{where}{err}"
    return "" if record.record_type == 1 else f"{where}a record of type {record.record_type}"


def test_octets_of_the_layout_are_refused_as_decode_refuses_them():
    _, value = Published("msgpack").values[3]
    refusals = 0
    for place in range(len(value)):
        for octet in (0x00, 0x01, 0x02, 0x03, 0x7F, 0x80, 0x81, 0xC3, 0xFF):
            changed = value[:place] + bytes([octet]) + value[place + 1 :]
            assert judged(changed) == refused(changed), (place, octet)
            refusals += bool(refused(changed))
    assert 400 < refusals < 1_500


STRANGE = [
    -1,
    0,
    2,
    3,
    129,
    256,
    2**16,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    1.5,
    1e30,
    None,
    "",
    "\u00e9" * 16,
    "10.0.0.256",
    "zz" * 16,
    [],
    {},
    True,
]


def test_json_is_refused_as_decode_refuses_it():
    _, value = Published("json").values[3]
    fields = json.loads(value)
    refusals = 0
    for name in fields:
        changes = [fields | {name: strange} for strange in STRANGE]
        changes.append({other: fields[other] for other in fields if other != name})
        for change in changes:
            changed = json.dumps(change).encode()
            assert judged(changed) == refused(changed), change
            refusals += bool(refused(changed))
    assert refusals > 500


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "Object missing required field `host`"),
        ({"agent_epoch": -1}, r"Expected `int` >= 0 - at `$.agent_epoch`"),
        ({"packets": 10**29}, r"Expected `int` <= 9223372036854775807 - at `$.packets`"),
        ({"packets": "many"}, r"Expected `int`, got `str` - at `$.packets`"),
    ],
)
def test_json_that_is_no_record_is_named_with_its_place(changes, reason):
    fields = json.loads(Published("json").values[3][1])
    if not changes:
        names = (
            "record_type",
            "schema_version",
            "agent_epoch",
            "host_id",
            "seq",
            "if_index",
            "packets",
            "l2_bytes",
        )
        fields = {name: fields[name] for name in names}
    told = judged(json.dumps(fields | changes).encode())
    assert told == f"topic flowstream.flows, partition 3, offset 7: not a record: {reason}"


def test_announcements_are_never_summed(record_format):
    published = Published(record_format)
    announced = random_flows(1)
    announced["record_type"] = 2
    stamp(announced, published.identity, 0)
    (value,) = published.encode(announced)
    published.values[FLOWS] = ("flowstream.new_flows", value)
    assert problems_of(published) == []


def test_an_unknown_schema_version_is_named_with_its_place(record_format):
    published = Published(record_format)
    published.flows["schema_version"][11] = 2
    published.values[11] = ("flowstream.flows", published.encode(published.flows)[11])
    with pytest.raises(
        DecodeError,
        match=r"^topic flowstream.flows, partition 1, offset 11: not a record: schema version 2, "
        "and this flowstream knows 1; upgrade it$",
    ):
        Audit().add(published.messages())
    published = Published(record_format)
    published.change_counters(1, schema_version=2)
    with pytest.raises(DecodeError, match=r"^topic flowstream.counters, .*: schema version 2"):
        Audit().add(published.messages())


@pytest.mark.parametrize(("topic", "taken"), [("flows", 33), ("new_flows", 3), ("counters", 3)])
def test_a_record_in_the_wrong_topic_is_named(record_format, topic, taken):
    value = Published(record_format).values[taken][1]
    with pytest.raises(DecodeError, match="partition 3, offset 7: a record of type"):
        Audit().add([Message(f"flowstream.{topic}", 3, 7, 0, b"", value)])


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
    assert any("records are missing without a cause" in text for text in result.runs[0].problems)


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


scattered = st.lists(st.integers(0, 70_000) | st.integers(0, 2**64 - 1), max_size=50)
# Enough in a chunk for a bitmap, at once or together.
dense = st.builds(
    lambda first, count, step: list(range(first, first + count * step, step)),
    st.integers(0, 70_000),
    st.integers(0, 400),
    st.integers(1, 3),
)


@given(st.lists(scattered | dense))
def test_a_seq_set_is_a_set(batches):
    seqs, seen, count = SeqSet(), set(), 0
    for batch in batches:
        fresh = seqs.add(np.array(batch, np.uint64))
        assert {n for n, new in zip(batch, fresh, strict=True) if new} == set(batch) - seen
        assert np.count_nonzero(fresh) == len(set(batch) - seen)
        seen |= set(batch)
        count += len(batch)
    assert (seqs.count, seqs.duplicates) == (len(seen), count - len(seen))
    assert (seqs.lowest, seqs.highest) == (min(seen, default=None), max(seen, default=None))
    for end in (0, 1, 40_000, 2**64):
        below = sorted(n for n in seen if n < end)
        edges = zip([-1, *below], [*below, end], strict=True)
        gaps = [(a + 1, b - 1) for a, b in edges if b - a > 1]
        assert list(seqs.gaps(end)) == gaps
        assert seqs.missing(end) == end - len(below)


@pytest.mark.parametrize("spread", [1, 6, 100, 128, 200, 2**40])
def test_a_seq_set_is_small_however_numbers_are_scattered(spread):
    count, batch = 30_000, 97
    numbers = random.Random(spread).sample(range(count * spread), count)
    seqs = SeqSet()
    tracemalloc.start()
    for start in range(0, count, batch):
        seqs.add(np.array(numbers[start : start + batch], np.uint64))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 18 * count
    assert (seqs.count, seqs.duplicates) == (count, 0)
    end = max(numbers) + 1
    assert seqs.missing(end) == end - count


def work(function, *arguments) -> int:
    """How many functions, Python's and built-in, a call calls: work without a clock."""
    calls = 0

    def count(_frame, event, _argument) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return calls


def runs_of(count: int, *, whole: bool) -> Result:
    """Result of ``count`` runs, of which none or all end without final counters."""
    published = Published("msgpack")
    if not whole:
        published.counters.pop()
    (run,) = result_of(published).runs
    runs = [msgspec.structs.replace(run, agent_epoch=EPOCH + n * STEP) for n in range(count)]
    return Result(whole, runs)


@pytest.mark.parametrize(("whole", "most"), [(True, 150), (False, 1_500)])
def test_the_work_of_printing_grows_with_the_runs_and_no_more(whole, most):
    def show(count: int) -> int:
        result = runs_of(count, whole=whole)
        with Path(os.devnull).open("w") as nowhere:
            return work(tables.show, result, nowhere)

    show(50)  # fills the caches of rich
    few, more, many = (show(count) for count in (50, 150, 350))
    assert (more - few) / 100 < most
    assert many - more < 2.1 * (more - few)


def printed(result: Result) -> str:
    stream = io.StringIO()
    tables.show(result, stream)
    return stream.getvalue()


def test_few_runs_are_printed_in_full():
    text = printed(runs_of(tables.RUNS_IN_FULL, whole=True))
    assert text.count("Run of ") == text.count("| veth3 ingress ") == tables.RUNS_IN_FULL
    assert "--json" not in text


def test_many_runs_are_summed_in_one_table():
    count = tables.RUNS_IN_FULL + 1
    result = runs_of(count, whole=True)
    text = printed(result)
    seen = count * result.runs[0].interfaces[0].seen.packets
    assert re.search(rf"\| all +\| seen +\| +{seen:,} \|", text)
    assert re.search(rf"\| +\| no flow: malformed +\| +{count * 3} \|", text)
    assert "Run of " not in text
    assert f"{count} runs: {count} hold, 0 do not; --json has every run\n" in text
    assert text.endswith("Every packet is accounted for.\n")


def test_runs_that_do_not_hold_are_all_named():
    text = printed(runs_of(50, whole=False))
    assert text.count("Run of ") == text.count("does not hold: ") == 50
    assert text.count("| veth3 ingress ") == tables.RUNS_IN_FULL
    assert "50 runs: 0 hold, 50 do not" in text


def test_the_table_shows_what_is_not_zero(record_format):
    published = with_doubt(record_format, 2)
    text = printed(result_of(published))
    terms = re.findall(r"^\| (?:veth3 ingress)? +\| ([a-z: _]+[a-z]) +\|", text, re.MULTILINE)
    assert terms == [
        "seen",
        "in published flows",
        "no flow: non_ip",
        "no flow: malformed",
        "lost: overflow_lost",
        "in doubt: shutdown",
        "difference",
    ]
    packets, _ = sums(published.flows[-5:])
    assert text.endswith(
        f"octets seen, {packets:,} packets in doubt\n\nEvery packet is accounted for.\n"
    )

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.published import (
    EPOCH,
    HOST,
    LOST,
    MALFORMED,
    NAMES,
    NON_IP,
    PARTITIONS,
    Published,
    publish,
)
from support.records import COUNTERS

from flowstream.audit import Amount, Audit, Result, audit
from flowstream.audit.seqs import SeqSet
from flowstream.encode.encoder import make_encoder
from flowstream.encode.identity import Identity
from flowstream.errors import DecodeError, SourceError, UsageError
from flowstream.messages import Message
from flowstream.records import Loss, StageCounts


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


@pytest.fixture(params=["json", "msgpack", "protobuf", "avro"])
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
    assert (interface.in_if, interface.name, interface.final) == (3, "veth3", True)
    assert interface.flows == Amount(
        int(published.flows["packets"].sum()), int(published.flows["l2_bytes"].sum())
    )
    assert interface.non_ip == Amount(*NON_IP)
    assert interface.malformed == Amount(*MALFORMED)
    assert interface.losses == {"overflow_lost": Amount(*LOST)}
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
    packets, octets = (int(published.flows[name][lost]) for name in ("packets", "l2_bytes"))
    del published.values[lost]
    assert problems_of(published) == [
        (
            f"veth3: difference of +{packets:,} packets and +{octets:,} octets: "
            "received, but neither published nor counted as lost"
        ),
        f"flowstream.flows: 1 records are missing without a cause (1 are not there; seq {lost})",
    ]


def test_missing_records_that_were_counted_as_lost_hold(record_format):
    published = Published(record_format)
    lost = published.flows[5:8]
    del published.values[5:8]
    sums = (int(lost["packets"].sum()), int(lost["l2_bytes"].sum()))
    published.change_counters(
        1,
        losses={"overflow_lost": Loss(11, *LOST), "delivery_timeout": Loss(3, *sums)},
        flows=StageCounts(42, 31, 31, 28, 0, 3),
    )
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == ["flowstream.flows: 3 records are missing, counted as lost"]
    assert result.runs[0].topics[0].gaps == [(5, 7)]


def test_more_missing_than_counted_is_named(record_format):
    published = Published(record_format)
    del published.values[5:8]
    published.change_counters(1, flows=StageCounts(42, 31, 31, 29, 0, 2))
    assert problems_of(published)[1] == (
        "flowstream.flows: 1 records are missing without a cause "
        "(3 are not there, 2 were counted as lost; seq 5-7)"
    )


def test_a_record_counted_as_lost_that_is_there_is_counted_twice(record_format):
    published = Published(record_format)
    packets, octets = (int(published.flows[name][4]) for name in ("packets", "l2_bytes"))
    published.change_counters(
        1,
        losses={"overflow_lost": Loss(11, *LOST), "delivery_timeout": Loss(1, packets, octets)},
        flows=StageCounts(42, 31, 31, 30, 0, 1),
    )
    result = result_of(published)
    assert result.runs[0].problems == [
        (
            f"veth3: difference of -{packets:,} packets and -{octets:,} octets: "
            "published or counted as lost, but not received"
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
    other = Published(record_format).flows
    other["seq"][7] = 6
    value = make_encoder(record_format, Identity(EPOCH, HOST, "host-a", NAMES)).encode(other)[7]
    published.values[7] = ("flowstream.flows", value)
    assert "flowstream.flows: 1 records are missing" in problems_of(published)[1]


def test_an_uncounted_loss_is_found():
    published = Published()
    published.change_counters(1, losses={})
    assert problems_of(published) == [
        (
            "veth3: difference of +19 packets and +1,997 octets: "
            "received, but neither published nor counted as lost"
        )
    ]


@pytest.mark.parametrize(("octets", "sign"), [(-60, "-60"), (60, "+60")])
def test_octets_may_differ_while_the_packets_are_right(octets, sign):
    published = Published()
    published.change_counters(1, rx_bytes=published.counters[1].rx_bytes + octets)
    (problem,) = problems_of(published)
    assert problem.startswith(f"veth3: difference of +0 packets and {sign} octets: ")


@pytest.mark.parametrize("field", ["non_ip", "malformed", "sampled_out", "counted"])
def test_every_term_counts(field):
    published = Published()
    record = published.counters[1]
    changes = {
        f"{field}_{unit}": getattr(record, f"{field}_{unit}") + 7 for unit in ("packets", "bytes")
    }
    published.change_counters(1, **changes)
    (problem,) = problems_of(published)
    assert problem.startswith("veth3: difference of -7 packets and -7 octets")


def test_a_run_without_final_counters_did_not_end_cleanly():
    published = Published()
    del published.counters[1]
    del published.values[4]
    packets, octets = (int(published.flows[name][4]) for name in ("packets", "l2_bytes"))
    problems = problems_of(published)
    assert problems[0] == (
        "veth3: run did not end cleanly: no final counters, so the equation cannot be exact "
        f"(difference +{packets:,} packets and +{octets:,} octets)"
    )
    assert problems[1].endswith("(1 are not there; seq 4)")


def test_a_run_without_counters_has_nothing_to_compare_with():
    published = Published()
    published.counters.clear()
    assert problems_of(published) == [
        "ifindex 3: flow records, but no counters record to compare them with"
    ]


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
    published.change_counters(0, rx_packets=1, losses={})
    published.counters.reverse()
    assert result_of(published, batch=1).holds


def test_two_runs_in_one_topic_are_apart(record_format):
    first, second = Published(record_format), Published(record_format, epoch=EPOCH + 1)
    other_host = Published(record_format, host_id=bytes(16))
    result = result_of(second, first, other_host)
    assert result.holds
    assert [(run.agent_epoch - EPOCH, run.host_id) for run in result.runs] == [
        (0, bytes(16).hex()),
        (0, HOST.hex()),
        (1, HOST.hex()),
    ]
    del second.values[3]
    result = result_of(first, second, other_host)
    assert [not run.problems for run in result.runs] == [True, True, False]


def test_two_interfaces_have_an_equation_each(record_format):
    published = Published(record_format, interfaces=(3, 5))
    assert problems_of(published) == []
    record = published.counters[3]
    published.change_counters(3, rx_packets=record.rx_packets + 23, rx_bytes=record.rx_bytes)
    assert [text.split(":")[0] for text in problems_of(published)] == ["veth5"]
    # The sum over both is right again; the interfaces are not.
    record = published.counters[2]
    published.change_counters(2, rx_packets=record.rx_packets - 23)
    assert [text.split(":")[0] for text in problems_of(published)] == ["veth3", "veth5"]


def test_one_interface_without_final_counters_is_named():
    published = Published(interfaces=(3, 5))
    del published.counters[2]
    (problem,) = problems_of(published)
    assert problem.startswith("veth3: run did not end cleanly")


@pytest.mark.parametrize("wrong", [31, 1_000_003, 2**64 - 1])
def test_a_wrong_seq_is_found(record_format, wrong):
    published = Published(record_format)
    flows = published.flows
    flows["seq"][9] = wrong
    value = make_encoder(record_format, Identity(EPOCH, HOST, "host-a", NAMES)).encode(flows)[9]
    published.values[9] = ("flowstream.flows", value)
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
    assert result_of(Published("json"), Published("json", epoch=EPOCH + 1)).warnings == []


def test_fields_added_at_the_end_are_accepted():
    published, packed = Published("json"), Published("msgpack")
    for number in (3, 4):
        topic, value = packed.values[number]
        published.values[number] = (topic, b"\xdc\x00\x20" + value[3:] + b"\xa0\x2a")
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
        *itertools.product(["json", "msgpack", "protobuf", "avro"], BAD.values()),
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


def test_an_unknown_schema_version_is_named_with_its_place(record_format):
    published = Published(record_format)
    published.flows["schema_version"][11] = 2
    encoder = make_encoder(record_format, Identity(EPOCH, HOST, "host-a", NAMES))
    published.values[11] = ("flowstream.flows", encoder.encode(published.flows)[11])
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
    published = Published(record_format, interfaces=(3, 5))
    await publish(url, record_format, published)
    for way in (url, f"{tmp_path}/recording"):
        result = await audit(way)
        assert result == result_of(published)
        assert result.holds


@pytest.mark.anyio
async def test_a_cluster(broker_factory):
    broker = broker_factory()
    first, second = Published("json"), Published("msgpack", epoch=EPOCH + 1)
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


@given(st.lists(st.lists(st.integers(0, 70_000) | st.integers(0, 2**64 - 1), max_size=50)))
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

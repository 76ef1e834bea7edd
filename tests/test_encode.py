"""Encoding: every format carries the same records, stamped and split as the sink needs them."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given, settings
from support.columns import any_columns
from support.records import (
    COUNTERS,
    EPOCH,
    FIELDS,
    SAMPLER,
    encoder_of,
    flow_records,
    random_flows,
)

from flowstream.accounting.identity import Identity
from flowstream.accounting.tally import Tally
from flowstream.encode import (
    FORMATS,
    address_texts,
    counters_key,
    counters_partition,
    make_encoder,
    partition_keys,
    partitions,
    split,
    stamp,
)
from flowstream.errors import UsageError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import decode, decode_many
from flowstream.streams import Stream

IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0", 5: "a-name-of-15-by"})

each_format = pytest.mark.parametrize("name", FORMATS)


def test_stamp_writes_its_columns_and_no_others():
    records = random_flows(7)
    records["if_index"] = [3, 5, 3, 4, 5, 3, 3]
    records["if_name"] = ord("x")
    before = records.copy()
    stamp(records, IDENTITY, 1_009)
    assert records["seq"].tolist() == list(range(1_009, 1_016))
    assert set(records["agent_epoch"].tolist()) == {EPOCH}
    assert {each.tobytes() for each in records["host_id"]} == {IDENTITY.host_id}
    assert {each.tobytes() for each in records["sampler_address"]} == {SAMPLER}
    names = [
        record.if_name for record in decode_many(make_encoder("msgpack", IDENTITY).encode(records))
    ]
    assert names == ["eth0", "a-name-of-15-by", "eth0", "", "a-name-of-15-by", "eth0", "eth0"]
    stamped = {"seq", "agent_epoch", "host_id", "sampler_address", "if_name"}
    for name in set(FLOW_RECORD.names) - stamped:
        assert (records[name] == before[name]).all(), name


def test_stamp_again_leaves_nothing_of_the_name_before():
    records = flow_records(1, if_index=3)
    stamp(records, Identity(EPOCH, bytes(16), "h", SAMPLER, {3: "a-name-of-15-by"}), 0)
    stamp(records, Identity(EPOCH, bytes(16), "h", SAMPLER, {3: "lo"}), 0)
    assert decode(make_encoder("msgpack", IDENTITY).encode(records)[0]).if_name == "lo"


def test_each_record_gets_the_name_of_its_interface():
    records = flow_records(6)
    records["if_index"] = [7, 3, 2**32 - 1, 0, 5, 3]
    names = {7: "seven", 3: "three", 2**32 - 1: "last"}
    stamp(records, Identity(EPOCH, bytes(16), "h", SAMPLER, names), 0)
    values = make_encoder("msgpack", IDENTITY).encode(records)
    found = [decode(value).if_name for value in values]
    assert found == ["seven", "three", "last", "", "", "three"]


@each_format
def test_names_that_are_not_utf8(name):
    odd = b"eth\xff\xfe".decode("utf-8", "surrogateescape")
    identity = Identity(EPOCH, bytes(16), odd * 40, SAMPLER, {3: odd})
    records = flow_records(1, if_index=3)
    stamp(records, identity, 0)
    value = encoder_of(name, identity).encode(records)[0]
    assert decode(value).if_name == "eth??"
    # The host's name is in every format that has names.
    assert value.count(b"eth??" * 40) == (name != "msgpack")


@pytest.mark.parametrize(
    ("epoch", "host_id", "sampler", "reason"),
    [
        (EPOCH, bytes(15), SAMPLER, "host_id has 15 bytes"),
        (EPOCH, bytes(16), SAMPLER[12:], "sampler_address has 4 bytes"),
        (EPOCH + 3, bytes(16), SAMPLER, "not a multiple of 1024"),
    ],
)
def test_identity_refuses_what_records_cannot_carry(epoch, host_id, sampler, reason):
    with pytest.raises(ValueError, match=reason):
        Identity(epoch, host_id, "host-a", sampler)


@given(any_columns())
@settings(max_examples=300)
def test_records_are_the_columns(columns):
    (value,) = make_encoder("msgpack", IDENTITY).encode(flow_records(1, **columns))
    record = decode(value)
    for field, expected in columns.items():
        read = getattr(record, field)
        if field == "if_name":
            assert read.encode().ljust(15, b"\0") == expected.tobytes()
        else:
            assert read == (expected if isinstance(expected, int) else expected.tobytes())


@each_format
def test_order_is_kept_over_blocks(name):
    records = random_flows(2_053)
    stamp(records, IDENTITY, 0)
    decoded = decode_many(encoder_of(name, IDENTITY).encode(records))
    assert [record.seq for record in decoded] == list(range(2_053))
    assert [record.src_addr for record in decoded] == [
        each.tobytes() for each in records["src_addr"]
    ]


@each_format
def test_no_records_no_values(name):
    assert encoder_of(name, IDENTITY).encode(flow_records(0)) == []


def test_values_do_not_alias_the_records():
    records = random_flows(3)
    values = make_encoder("msgpack", IDENTITY).encode(records)
    assert {type(value) for value in values} == {bytes}
    kept = [bytes(bytearray(value)) for value in values]
    records["packets"] = 0
    assert values == kept


def test_msgpack_takes_every_second_record():
    records = random_flows(7)[::2]
    values = make_encoder("msgpack", IDENTITY).encode(records)
    assert values == [record.tobytes() for record in records]


@pytest.mark.parametrize(("direction", "in_if", "out_if"), [(0, 3, 0), (1, 0, 3)])
def test_json_object_is_written_as_documented(direction, in_if, out_if):
    records = flow_records(
        1, etype=0x0800, proto=17, packets=3, if_index=3, src_port=53, flow_direction=direction
    )
    stamp(records, IDENTITY, 11)
    (value,) = make_encoder("json", IDENTITY).encode(records)
    written = json.loads(value)
    name = FIELDS.index("if_name") + 1
    assert list(written) == [
        *FIELDS[:4],
        "host",
        *FIELDS[4:name],
        "in_if",
        "out_if",
        *FIELDS[name:],
    ]
    assert value.startswith(b'{"record_type":1,')
    assert written["host_id"] == "000102030405060708090a0b0c0d0e0f"
    assert (written["host"], written["seq"], written["if_name"]) == ("host-a", 11, "eth0")
    assert (written["if_index"], written["in_if"], written["out_if"]) == (3, in_if, out_if)


@pytest.mark.parametrize("name", ["json", "protobuf", "avro"])
def test_interfaces_by_direction_within_a_batch(name):
    """The named fields are columns too: read as the format's own readers read them."""
    records = random_flows(5)
    records["flow_direction"] = [0, 1, 0, 1, 1]
    records["if_index"] = [2, 3, 5, 7, 11]
    without = encoder_of(name, IDENTITY).encode(records)
    assert [decode(value).if_index for value in without] == [2, 3, 5, 7, 11]
    alone = [encoder_of(name, IDENTITY).encode(records[n : n + 1])[0] for n in range(5)]
    assert without == alone


def addresses(family: str, n: int) -> np.ndarray:
    """``n`` addresses that all differ, shape (n, 16): IPv4, IPv6, or some of both."""
    column = np.zeros((n, 16), np.uint8)
    column[:, :2] = [0x20, 0x01]
    column[:, 12:] = np.arange(n, dtype=">u4").view(np.uint8).reshape(n, 4)
    v4 = {"v4": np.ones(n, bool), "v6": np.zeros(n, bool), "both": np.arange(n) % 3 == 0}[family]
    column[v4, :10] = 0
    column[v4, 10:12] = 0xFF
    return column


@pytest.mark.parametrize("name", ["json", "avro"])
@pytest.mark.parametrize("family", ["v4", "v6", "both"])
def test_a_bounded_number_of_texts_is_remembered(family, name, monkeypatch):
    monkeypatch.setattr(address_texts, "CACHED_TEXTS", 101)
    n = 2_053
    src, dst = addresses(family, n), addresses(family, n)[::-1]
    records = flow_records(n, etype=0x0800, src_addr=src, dst_addr=dst)
    encoder = encoder_of(name, IDENTITY)
    decoded = decode_many(encoder.encode(records))
    for column in ("src_addr", "dst_addr"):
        expected = [each.tobytes() for each in records[column]]
        assert [getattr(record, column) for record in decoded] == expected
    caches = [
        len(cache)
        for cache in vars(encoder._addresses).values()
        if isinstance(cache, address_texts.TextCache)
    ]
    assert max(caches) <= 101
    assert max(caches) > 0 or (name, family) == ("avro", "v4")


@pytest.mark.parametrize("name", ["json", "avro", "protobuf"])
def test_mapped_addresses_follow_the_packets_of_a_mixed_batch(name):
    n = 101
    records = flow_records(n, src_addr=addresses("both", n), dst_addr=addresses("v4", n))
    records["etype"] = np.where(np.arange(n) % 2, 0x0800, 0x86DD)
    alone = [encoder_of(name, IDENTITY).encode(records[i : i + 1])[0] for i in range(n)]
    assert encoder_of(name, IDENTITY).encode(records) == alone
    if name == "json":
        texts = [json.loads(value)["dst_addr"] for value in alone]
        assert texts[:3] == ["::ffff:0.0.0.0", "0.0.0.1", "::ffff:0.0.0.2"]


def test_unknown_format():
    with pytest.raises(UsageError, match="'xml' is unknown; known: json, msgpack, protobuf"):
        make_encoder("xml", IDENTITY)


def test_formats_that_cannot_carry_an_option():
    with pytest.raises(UsageError, match=r"msgpack has a fixed layout .*records\.community_id"):
        make_encoder("msgpack", IDENTITY, community_id=True)
    with pytest.raises(UsageError, match="avro needs a schema registry"):
        make_encoder("avro", IDENTITY)


def test_key_and_partition_of_counters():
    assert counters_key(COUNTERS) == (b"000102030405060708090a0b0c0d0e0f/1700000000000000000/3/1")
    other = msgspec.structs.replace(COUNTERS, agent_epoch=1_024, if_index=5, flow_direction=0)
    assert counters_key(other) == b"000102030405060708090a0b0c0d0e0f/1024/5/0"
    # By the host alone, wherever the partitioner puts these octets.
    expected = (murmur2(COUNTERS.host_id[:8]) & 0x7FFF_FFFF) % 12
    assert counters_partition(COUNTERS, 12) == counters_partition(other, 12) == expected


@pytest.mark.parametrize("count", [1, 12, 70_001])
def test_split_groups_by_partition_in_order(count):
    records = random_flows(2_003)
    stamp(records, IDENTITY, 0)
    values = make_encoder("msgpack", IDENTITY).encode(records)
    keys = partition_keys(records)
    numbers = partitions(keys, count)
    tally = Tally.of_flows(records)
    batches = split(Stream.FLOWS, "t.flows", values, keys, numbers, tally, 1_700, EPOCH)

    assert [batch.partition for batch in batches] == sorted(set(numbers.tolist()))
    for batch in batches:
        members = [i for i, number in enumerate(numbers.tolist()) if number == batch.partition]
        assert batch.values == [values[i] for i in members]
        assert batch.keys == [keys[i].tobytes() for i in members]
        assert batch.tally.packets.tolist() == records["packets"][members].tolist()
        assert batch.tally.l2_bytes.tolist() == records["l2_bytes"][members].tolist()
        assert batch.tally.attachments.tolist() == [6] * len(members)
        assert (batch.stream, batch.topic) == (Stream.FLOWS, "t.flows")
        assert batch.timestamps_ms == [1_700] * len(members)


def test_split_of_nothing():
    records = flow_records(0)
    keys = partition_keys(records)
    tally = Tally.of_flows(records)
    assert split(Stream.FLOWS, "t.flows", [], keys, partitions(keys, 3), tally, 0, EPOCH) == []

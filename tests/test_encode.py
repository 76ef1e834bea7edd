"""Encoding: both formats carry the same records, stamped and split as the sink needs them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from support.columns import any_columns
from support.records import FIELDS, flow_records, random_flows

from flowstream.encode import (
    FORMATS,
    Identity,
    flow_tally,
    json_encoder,
    make_encoder,
    partition_keys,
    partitions,
    split,
    stamp,
)
from flowstream.errors import UsageError
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.records import decode, decode_many
from flowstream.streams import Stream

EPOCH = 1_700_000_000_000_000_000
IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", {3: "eth0", 5: "a-name-of-15-by"})

each_format = pytest.mark.parametrize("name", FORMATS)
# Of the others tests/test_binary_formats.py reads the values.
each_readable_format = pytest.mark.parametrize("name", ["json", "msgpack"])


def test_stamp_writes_its_columns_and_no_others():
    records = random_flows(7)
    records["in_if"] = [3, 5, 3, 4, 5, 3, 3]
    records["in_if_name"] = ord("x")
    before = records.copy()
    stamp(records, IDENTITY, 1_009)
    assert records["seq"].tolist() == list(range(1_009, 1_016))
    assert set(records["agent_epoch"].tolist()) == {EPOCH}
    assert {row.tobytes() for row in records["host_id"]} == {IDENTITY.host_id}
    names = [
        record.in_if_name
        for record in decode_many(make_encoder("msgpack", IDENTITY).encode(records))
    ]
    assert names == ["eth0", "a-name-of-15-by", "eth0", "", "a-name-of-15-by", "eth0", "eth0"]
    stamped = {"seq", "agent_epoch", "host_id", "in_if_name"}
    for name in set(FLOW_RECORD.names) - stamped:
        assert (records[name] == before[name]).all(), name


def test_stamp_again_leaves_nothing_of_the_name_before():
    records = flow_records(1, in_if=3)
    stamp(records, Identity(EPOCH, bytes(16), "h", {3: "a-name-of-15-by"}), 0)
    stamp(records, Identity(EPOCH, bytes(16), "h", {3: "lo"}), 0)
    assert decode(make_encoder("msgpack", IDENTITY).encode(records)[0]).in_if_name == "lo"


@each_readable_format
def test_names_that_are_not_utf8(name):
    odd = b"eth\xff\xfe".decode("utf-8", "surrogateescape")
    identity = Identity(EPOCH, bytes(16), odd * 40, {3: odd})
    records = flow_records(1, in_if=3)
    stamp(records, identity, 0)
    value = make_encoder(name, identity).encode(records)[0]
    assert decode(value).in_if_name == "eth??"
    if name == "json":
        assert json.loads(value)["host"] == "eth??" * 40


def test_identity_refuses_a_host_id_of_another_length():
    with pytest.raises(ValueError, match="15 bytes"):
        Identity(EPOCH, bytes(15), "host-a")


@given(any_columns())
@settings(max_examples=300)
def test_both_formats_decode_to_the_same_record(columns):
    records = flow_records(1, **columns)
    as_json, as_msgpack = (
        decode(make_encoder(name, IDENTITY).encode(records)[0]) for name in ("json", "msgpack")
    )
    assert as_json == as_msgpack
    for field, expected in columns.items():
        value = getattr(as_msgpack, field)
        if field == "in_if_name":
            assert value.encode().ljust(15, b"\0") == expected.tobytes()
        else:
            assert value == (expected if isinstance(expected, int) else expected.tobytes())


@each_readable_format
def test_order_is_kept_over_blocks(name):
    records = random_flows(2_053)
    stamp(records, IDENTITY, 0)
    decoded = decode_many(make_encoder(name, IDENTITY).encode(records))
    assert [record.seq for record in decoded] == list(range(2_053))
    assert [record.src_addr for record in decoded] == [
        row.tobytes() for row in records["src_addr"]
    ]


@each_format
def test_no_records_no_values(name):
    assert make_encoder(name, IDENTITY).encode(flow_records(0)) == []


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


def test_json_object_is_written_as_documented():
    records = flow_records(1, proto=17, packets=3, in_if=3, src_port=53)
    stamp(records, IDENTITY, 11)
    (value,) = make_encoder("json", IDENTITY).encode(records)
    written = json.loads(value)
    assert list(written) == [*FIELDS[:4], "host", *FIELDS[4:]]
    assert value.startswith(b'{"record_type":1,')
    assert written["host_id"] == "000102030405060708090a0b0c0d0e0f"
    assert (written["host"], written["seq"], written["in_if_name"]) == ("host-a", 11, "eth0")


def addresses(family: str, n: int) -> np.ndarray:
    """``n`` addresses that all differ, shape (n, 16): IPv4, IPv6, or some of both."""
    column = np.zeros((n, 16), np.uint8)
    column[:, :2] = [0x20, 0x01]
    column[:, 12:] = np.arange(n, dtype=">u4").view(np.uint8).reshape(n, 4)
    v4 = {"v4": np.ones(n, bool), "v6": np.zeros(n, bool), "both": np.arange(n) % 3 == 0}[family]
    column[v4, :10] = 0
    column[v4, 10:12] = 0xFF
    return column


@pytest.mark.parametrize("family", ["v4", "v6", "both"])
def test_json_remembers_a_bounded_number_of_texts(family, monkeypatch):
    monkeypatch.setattr(json_encoder, "_CACHED_TEXTS", 101)
    n = 2_053
    records = flow_records(n, src_addr=addresses(family, n), dst_addr=addresses(family, n)[::-1])
    encoder = make_encoder("json", IDENTITY)
    decoded = decode_many(encoder.encode(records))
    for name in ("src_addr", "dst_addr"):
        expected = [row.tobytes() for row in records[name]]
        assert [getattr(record, name) for record in decoded] == expected
    remembered = encoder._texts["src_addr"]
    sizes = [len(remembered._upper), len(remembered._lower), len(remembered._whole)]
    assert 0 < max(sizes) <= 101


def test_unknown_format():
    with pytest.raises(UsageError, match="'xml' is unknown; known: json, msgpack, protobuf"):
        make_encoder("xml", IDENTITY)


@pytest.mark.parametrize("count", [1, 12, 70_001])
def test_split_groups_by_partition_in_order(count):
    records = random_flows(2_003)
    stamp(records, IDENTITY, 0)
    values = make_encoder("msgpack", IDENTITY).encode(records)
    keys = partition_keys(records)
    numbers = partitions(keys, count)
    tally = flow_tally(Stream.FLOWS, records)
    batches = split(Stream.FLOWS, "t.flows", values, keys, numbers, tally, 1_700)

    assert [batch.partition for batch in batches] == sorted(set(numbers.tolist()))
    for batch in batches:
        members = [i for i, number in enumerate(numbers.tolist()) if number == batch.partition]
        assert batch.values == [values[i] for i in members]
        assert batch.keys == [keys[i].tobytes() for i in members]
        assert batch.tally.packets.tolist() == records["packets"][members].tolist()
        assert batch.tally.l2_bytes.tolist() == records["l2_bytes"][members].tolist()
        assert batch.tally.in_if.tolist() == [3] * len(members)
        assert (batch.stream, batch.topic) == (Stream.FLOWS, "t.flows")
        assert batch.timestamps_ms == [1_700] * len(members)


def test_split_of_nothing():
    records = flow_records(0)
    keys = partition_keys(records)
    tally = flow_tally(Stream.FLOWS, records)
    assert split(Stream.FLOWS, "t.flows", [], keys, partitions(keys, 3), tally, 0) == []


def test_announcements_stand_for_no_packets():
    tally = flow_tally(Stream.NEW_FLOWS, random_flows(5))
    assert tally.packets.tolist() == tally.l2_bytes.tolist() == [0] * 5
    assert tally.in_if.tolist() == [3] * 5

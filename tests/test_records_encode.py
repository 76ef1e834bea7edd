"""records.to_dict, encode and flow_extras: the same values as an agent publishes."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import COUNTERS, EPOCH, PREFIXES, SAMPLER, encoder_of, random_flows

from flowstream.accounting.identity import Identity
from flowstream.encode import stamp
from flowstream.errors import UsageError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import decode, encode, to_dict
from flowstream.records.decoding import flow_extras, prefix_of

IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "veth3"})
FORMATS = ["json", "msgpack", "protobuf", "avro"]
V6_MAPPED = {"etype": 0x86DD, "src_net": 128, "dst_net": 128}


def flows(n: int = 101):
    records = random_flows(n)
    records["flow_direction"][::2] = 1
    for name, value in V6_MAPPED.items():
        records[name][::3] = value
    records["src_addr"][::9, :4] = 0x20
    stamp(records, IDENTITY, 2**40)
    return records


@pytest.mark.parametrize(
    ("record_format", "community_id"),
    [
        ("msgpack", False),
        *((name, flag) for name in ("json", "protobuf", "avro") for flag in (False, True)),
    ],
)
def test_encode_gives_the_octets_of_the_agent(record_format, community_id):
    values = encoder_of(record_format, IDENTITY, community_id=community_id).encode(flows())
    for value in values:
        record = decode(value)
        host, found = flow_extras(value)
        assert host == ("" if record_format == "msgpack" else "host-a")
        assert bool(found) == community_id
        again = encode(
            record, record_format, host=host, community_id=found, prefix=prefix_of(value)
        )
        assert again == value


@pytest.mark.parametrize("record_format", FORMATS)
def test_encode_gives_counters_that_decode_reads(record_format):
    value = encoder_of(record_format, IDENTITY).encode_counters(COUNTERS)
    assert decode(value) == COUNTERS
    again = encode(COUNTERS, record_format, prefix=prefix_of(value))
    assert decode(again) == COUNTERS
    if record_format != "protobuf":  # the order of a map's entries is free
        assert again == value


def test_dict_is_that_of_json():
    (value,) = encoder_of("json", IDENTITY, community_id=True).encode(flows(1))
    record = decode(value)
    host, community_id = flow_extras(value)
    found = to_dict(record, host=host, community_id=community_id)
    assert list(found.items()) == list(json.loads(value).items())
    assert "community_id" not in to_dict(record)
    counters = encoder_of("json", IDENTITY).encode_counters(COUNTERS)
    assert to_dict(COUNTERS) == json.loads(counters)


@given(octets=st.binary(min_size=FLOW_RECORD.itemsize, max_size=FLOW_RECORD.itemsize))
def test_any_record_is_encoded_as_the_agent_does(octets):
    """Random values in the places of all fields, as far as a record may have them."""
    records = random_flows(1)
    stamp(records, IDENTITY, 0)
    random = np.frombuffer(octets, FLOW_RECORD)
    for name in ("src_addr", "dst_addr", "src_mac", "dst_mac", "etype", "proto", "src_port"):
        records[name] = random[name]
    for name in ("packets", "bytes", "l2_bytes", "time_flow_start_ns", "seq"):
        records[name] = random[name] >> np.uint64(1)
    for record_format in FORMATS:
        (value,) = encoder_of(record_format, IDENTITY).encode(records)
        record, (host, _) = decode(value), flow_extras(value)
        assert encode(record, record_format, host=host, prefix=prefix_of(value)) == value


def test_impossible_values_are_refused():
    record = decode(encoder_of("msgpack", IDENTITY).encode(flows(1))[0])
    with pytest.raises(UsageError, match="avro: a value needs the prefix of a schema registry"):
        encode(record, "avro")
    with pytest.raises(UsageError, match="'xml' is unknown; known: json, msgpack, protobuf, avro"):
        encode(record, "xml")
    long = msgspec.structs.replace(record, if_name="ü" * 15)
    with pytest.raises(ValueError, match="longer than 15 octets"):
        encode(long, "msgpack")


def test_prefix_is_a_registrys():
    (value,) = encoder_of("avro", IDENTITY).encode(flows(1))
    assert prefix_of(value) == PREFIXES["avro"].of(np.array([1], np.uint8)).tobytes()
    assert prefix_of(b"") == prefix_of(b"{}") == prefix_of(b"\0\0") == b""

"""Protobuf and Avro as their own libraries read them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import fastavro
import msgspec
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given, settings
from hypothesis import strategies as st
from support.columns import any_columns
from support.records import (
    COUNTERS,
    EPOCH,
    PREFIXES,
    SAMPLER,
    encoder_of,
    flow_records,
    random_flows,
)

from flowstream import schemas
from flowstream.accounting.identity import Identity
from flowstream.encode import Prefixes, make_encoder, stamp
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import FlowRecord, RecordType, SpoolCounts, community_id, decode
from flowstream.records.describe import fields, named_fields, protobuf_fields
from flowstream.records.fields import Kind
from flowstream.records.text import address_text, mac_text
from flowstream.streams import Stream

IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})


@cache
def message_class(text: str, name: str):
    """Compile a definition with protoc; return the class of a message."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "it.proto").write_text(text)
        compiled = Path(directory) / "it.bin"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                "-I",
                directory,
                "it.proto",
                f"--descriptor_set_out={compiled}",
            ],
            check=True,
            timeout=60,
        )
        found = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(found.file[0])
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def extras(record: FlowRecord, *, with_id: bool) -> dict[str, object]:
    """Fields that only formats with names carry, computed anew."""
    return {
        "host": "host-a",
        "in_if": 0 if record.flow_direction else record.if_index,
        "out_if": record.if_index if record.flow_direction else 0,
        "community_id": community_id(record) if with_id else "",
    }


def named_values(record: msgspec.Struct, *, with_id: bool = False) -> dict[str, object]:
    values = msgspec.structs.asdict(record)
    return values | extras(record, with_id=with_id) if isinstance(record, FlowRecord) else values


def own_message(record: msgspec.Struct, *, with_id: bool = False):
    """The runtime's message with a record's values."""
    stream = Stream.FLOWS if isinstance(record, FlowRecord) else Stream.COUNTERS
    name = "FlowMessage" if stream is Stream.FLOWS else "CountersMessage"
    message = message_class(schemas.text("protobuf", stream), f"flowstream.{name}")()
    values = named_values(record, with_id=with_id) | {"sequence_num": record.seq % 2**32}
    for field in protobuf_fields(type(record)):
        value = values[field.name]
        match field.kind:
            case Kind.MAP:
                for key, part in value.items():
                    fill(getattr(message, field.name)[key], part)
            case Kind.PART:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), value)
            case Kind.MAC:
                setattr(message, field.name, int.from_bytes(value))
            case Kind.ADDRESS:
                setattr(message, field.name, packed(field.name, record, value))
            case _:
                setattr(message, field.name, value)
    return message


def packed(name: str, record: msgspec.Struct, address: bytes) -> bytes:
    """4 octets where it is IPv4's: a packet's by its EtherType."""
    mapped = address.startswith(bytes(10) + b"\xff\xff")
    is_ipv4 = mapped and (name == "sampler_address" or record.etype == 0x0800)
    return address[12:] if is_ipv4 else address


def sized(message) -> bytes:
    """As GoFlow2 writes it: the length, a varint, before the message."""
    octets = message.SerializeToString(deterministic=True)
    return _VarintBytes(len(octets)) + octets


def fill(message, part: msgspec.Struct) -> None:
    message.SetInParent()
    for name in part.__struct_fields__:
        setattr(message, name, getattr(part, name))


@cache
def avro_schema(stream: Stream):
    return fastavro.parse_schema(json.loads(schemas.text("avro", stream)))


def from_avro(value: bytes, stream: Stream) -> dict[str, object]:
    stream_of_bytes = io.BytesIO(value)
    read = fastavro.schemaless_reader(stream_of_bytes, avro_schema(stream), None)
    assert not stream_of_bytes.read()
    return read


def unsized(value: bytes) -> bytes:
    """The message behind its length."""
    size, start = _DecodeVarint(value, 0)
    assert size == len(value) - start
    return value[start:]


def as_avro(record: FlowRecord, *, with_id: bool) -> dict[str, object]:
    """Fields of a datum: addresses, MAC addresses and the host's id as text."""
    values = named_values(record, with_id=with_id)
    for name in ("src_addr", "dst_addr"):
        values[name] = address_text(values[name], record.etype)
    values["sampler_address"] = address_text(record.sampler_address)
    for name in ("src_mac", "dst_mac"):
        values[name] = mac_text(values[name])
    values["host_id"] = record.host_id.hex()
    return values


def datum(value: bytes) -> bytes:
    """The value behind the registry's prefix."""
    return value[5:]


def canonical(records: np.ndarray) -> list[FlowRecord]:
    return [decode(value) for value in make_encoder("msgpack", IDENTITY).encode(records)]


@pytest.mark.parametrize("with_id", [False, True])
@given(columns=st.lists(any_columns(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_flows(columns, with_id):
    # Without the dtype numpy would make the fields native-endian.
    records = np.concatenate([flow_records(1, **each) for each in columns], dtype=FLOW_RECORD)
    check_flows(records, with_id=with_id)


@pytest.mark.parametrize("with_id", [False, True])
def test_batches_keep_their_order(with_id):
    records = random_flows(2_053)
    records["src_addr"][::3, :2] = [0x20, 0x01]
    records["etype"][1::5] = 0x86DD
    records["flow_direction"][::11] = 1
    records["packets"][::7] = 0
    stamp(records, IDENTITY, 2**32 - 1_009)
    check_flows(records, with_id=with_id)


def check_flows(records: np.ndarray, *, with_id: bool) -> None:
    """Octet by octet as Protobuf's runtime writes them, field by field as Avro's reads them."""
    expected = canonical(records)
    values = encoder_of("protobuf", IDENTITY, community_id=with_id).encode(records)
    assert values == [sized(own_message(each, with_id=with_id)) for each in expected]
    values = encoder_of("avro", IDENTITY, community_id=with_id).encode(records)
    assert [from_avro(datum(value), Stream.FLOWS) for value in values] == [
        as_avro(each, with_id=with_id) for each in expected
    ]


def test_counters():
    empty = msgspec.structs.replace(
        COUNTERS,
        losses={},
        in_doubt={},
        final=False,
        table_swaps=0,
        host="",
        spool=SpoolCounts(0, 0, 0, 0, 0),
    )
    for record in (COUNTERS, empty):
        message = own_message(record)
        value = make_encoder("protobuf", IDENTITY).encode_counters(record)
        # A map has no order.
        size = _VarintBytes(message.ByteSize())
        assert value.startswith(size)
        assert type(message).FromString(value[len(size) :]) == message
        assert len(value) == len(size) + message.ByteSize()
        value = encoder_of("avro", IDENTITY).encode_counters(record)
        expected = msgspec.to_builtins(record_as_dict(record), builtin_types=(bytes,))
        expected |= {"host_id": record.host_id.hex(), "sampler_address": "192.0.2.1"}
        assert from_avro(datum(value), Stream.COUNTERS) == expected


def record_as_dict(record: msgspec.Struct) -> dict[str, object]:
    return {
        name: {key: msgspec.structs.asdict(part) for key, part in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in msgspec.structs.asdict(record).items()
    } | {"spool": msgspec.structs.asdict(record.spool)}


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**63 - 1])
def test_counters_of_63_bits(number):
    record = msgspec.structs.replace(COUNTERS, seen_packets=number)
    value = make_encoder("protobuf", IDENTITY).encode_counters(record)
    assert decode(value).seen_packets == number
    value = encoder_of("avro", IDENTITY).encode_counters(record)
    assert from_avro(datum(value), Stream.COUNTERS)["seen_packets"] == number


@pytest.mark.parametrize("stream", [Stream.FLOWS, Stream.COUNTERS])
def test_avros_strings_are_those_of_javas_classes(stream):
    """Addresses, MAC addresses and the host's id are text too; no type is fixed or bytes."""
    schema = json.loads(schemas.text("avro", stream))
    types = {field["name"]: field["type"] for field in schema["fields"]}
    string = {"type": "string", "avro.java.string": "String"}
    assert types["host_id"] == types["sampler_address"] == types["if_name"] == string
    assert {kind for kind in types.values() if isinstance(kind, str)} <= {"int", "long", "boolean"}
    if stream is Stream.FLOWS:
        assert types["src_addr"] == types["dst_mac"] == types["community_id"] == string
    else:
        assert types["losses"]["avro.java.string"] == "String"


def test_named_fields_stand_behind_the_fields_that_they_belong_to():
    names = [field.name for field in named_fields(FlowRecord)]
    wire = [field.name for field in fields(FlowRecord)]
    assert [name for name in names if name in wire] == wire
    for name, behind in {
        "host": "host_id",
        "in_if": "if_name",
        "out_if": "in_if",
        "community_id": "flow_direction",
    }.items():
        assert names[names.index(behind) + 1] == name


@pytest.mark.parametrize("name", ["protobuf", "avro"])
def test_prefixes_stand_before_every_value(name):
    prefixes = Prefixes({kind: bytes([0, 0, 0, 0, 7 * kind]) for kind in RecordType})
    records = random_flows(7)
    records["record_type"] = [1, 2, 1, 1, 2, 2, 1]
    prefixed = make_encoder(name, IDENTITY, prefixes=prefixes)
    other = make_encoder(name, IDENTITY, prefixes=PREFIXES[name])
    width = len(PREFIXES[name].of(np.array([1], np.uint8))[0])
    assert prefixed.encode(records) == [
        bytes([0, 0, 0, 0, 7 * kind]) + value[width:]
        for kind, value in zip(records["record_type"].tolist(), other.encode(records), strict=True)
    ]
    assert prefixed.encode_counters(COUNTERS) == (
        b"\0\0\0\0\x15" + other.encode_counters(COUNTERS)[width:]
    )


def test_a_registrys_prefix_stands_in_place_of_the_length():
    records = random_flows(3)
    bare = make_encoder("protobuf", IDENTITY).encode(records)
    prefixed = make_encoder("protobuf", IDENTITY, prefixes=PREFIXES["protobuf"]).encode(records)
    for value, behind in zip(bare, prefixed, strict=True):
        message = behind[6:]
        assert value == _VarintBytes(len(message)) + message

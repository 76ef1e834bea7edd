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
from hypothesis import given, settings
from hypothesis import strategies as st
from support.columns import any_columns
from support.records import COUNTERS, FIELDS, flow_records, random_flows

from flowstream import schemas
from flowstream.encode import Identity, Prefixes, make_encoder, stamp
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.records import FlowRecord, RecordType, decode
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.streams import Stream

IDENTITY = Identity(1_700_000_000_000_000_003, bytes(range(16)), "host-a", {3: "eth0"})
# Names, numbers and types as in GoFlow2's pb/flow.proto, v2.
GOFLOW2 = """
syntax = "proto3";
package flowpb;
message FlowMessage {
  uint64 time_received_ns = 110; uint64 sampling_rate = 3;
  uint64 time_flow_start_ns = 111; uint64 time_flow_end_ns = 112;
  uint64 bytes = 9; uint64 packets = 10;
  bytes src_addr = 6; bytes dst_addr = 7;
  uint32 etype = 30; uint32 proto = 20;
  uint32 src_port = 21; uint32 dst_port = 22; uint32 in_if = 18;
  uint64 src_mac = 27; uint64 dst_mac = 28; uint32 vlan_id = 29;
  uint32 ip_tos = 23; uint32 ip_ttl = 25; uint32 tcp_flags = 26;
  uint32 icmp_type = 31; uint32 icmp_code = 32;
}
"""


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


def own_message(record: msgspec.Struct):
    """The runtime's message with a record's values."""
    stream = Stream.FLOWS if isinstance(record, FlowRecord) else Stream.COUNTERS
    name = "FlowMessage" if stream is Stream.FLOWS else "CountersMessage"
    message = message_class(schemas.text("protobuf", stream), f"flowstream.{name}")()
    for field in fields(type(record)):
        value = getattr(record, field.name)
        if field.kind is Kind.MAP:
            for key, part in value.items():
                fill(getattr(message, field.name)[key], part)
        elif field.kind is Kind.RECORD:
            fill(getattr(message, field.name), value)
        else:
            is_mac = field.kind is Kind.MAC
            setattr(message, field.name, int.from_bytes(value) if is_mac else value)
    return message


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


def canonical(records: np.ndarray, *, community_id: bool = False) -> list[FlowRecord]:
    encoder = make_encoder("msgpack", IDENTITY, community_id=community_id)
    return [decode(value) for value in encoder.encode(records)]


def signed(record: FlowRecord) -> dict[str, object]:
    """Fields as Avro has them: the highest of 64 bits is the sign."""
    return {
        name: number - 2**64 if isinstance(number, int) and number >= 2**63 else number
        for name, number in msgspec.structs.asdict(record).items()
    }


@pytest.mark.parametrize("community_id", [False, True])
@given(columns=st.lists(any_columns(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_flows(columns, community_id):
    # Without the dtype numpy would make the fields native-endian.
    records = np.concatenate([flow_records(1, **each) for each in columns], dtype=FLOW_RECORD)
    expected = canonical(records, community_id=community_id)
    values = make_encoder("protobuf", IDENTITY, community_id=community_id).encode(records)
    assert values == [own_message(each).SerializeToString(deterministic=True) for each in expected]
    values = make_encoder("avro", IDENTITY, community_id=community_id).encode(records)
    assert [from_avro(value, Stream.FLOWS) for value in values] == list(map(signed, expected))


@pytest.mark.parametrize("community_id", [False, True])
def test_batches_keep_their_order(community_id):
    records = random_flows(2_053)
    records["src_addr"][::3, :2] = [0x20, 0x01]
    records["packets"][::7] = 0
    stamp(records, IDENTITY, 127)
    expected = canonical(records, community_id=community_id)
    values = make_encoder("protobuf", IDENTITY, community_id=community_id).encode(records)
    assert values == [own_message(record).SerializeToString() for record in expected]
    values = make_encoder("avro", IDENTITY, community_id=community_id).encode(records)
    assert [from_avro(value, Stream.FLOWS) for value in values] == [
        msgspec.structs.asdict(record) for record in expected
    ]


def test_goflow2_reads_its_fields():
    records = random_flows(3)
    records["src_mac"] = [2, 0, 0, 0, 0, 1]
    records["sampling_rate"] = 11
    stamp(records, IDENTITY, 0)
    read = message_class(GOFLOW2, "flowpb.FlowMessage")
    for value, record in zip(
        make_encoder("protobuf", IDENTITY).encode(records), canonical(records), strict=True
    ):
        message = read.FromString(value)
        assert message.src_mac == 0x020000000001
        assert message.sampling_rate == 11
        shared = {field.name for field in read.DESCRIPTOR.fields} - {"src_mac", "dst_mac"}
        for name in shared & set(FIELDS):
            assert getattr(message, name) == getattr(record, name), name


def test_numbers_are_goflow2s_or_from_1000():
    goflow2 = {
        f.name: f.number for f in message_class(GOFLOW2, "flowpb.FlowMessage").DESCRIPTOR.fields
    }
    # In RECORDS, but only a comment in GoFlow2's definition.
    goflow2["flow_direction"] = 42
    for field in fields(FlowRecord):
        assert field.number == goflow2.get(field.name, field.number)
        assert (field.number < 1000) == (field.name in goflow2)


def test_counters():
    empty = msgspec.structs.replace(COUNTERS, losses={}, final=False, table_swaps=0, host="")
    for record in (COUNTERS, empty):
        message = own_message(record)
        value = make_encoder("protobuf", IDENTITY).encode_counters(record)
        # A map has no order.
        assert type(message).FromString(value) == message
        assert len(value) == message.ByteSize()
        value = make_encoder("avro", IDENTITY).encode_counters(record)
        assert from_avro(value, Stream.COUNTERS) == msgspec.to_builtins(
            record_as_dict(record), builtin_types=(bytes,)
        )


def record_as_dict(record: msgspec.Struct) -> dict[str, object]:
    return {
        name: msgspec.structs.asdict(value)
        if isinstance(value, msgspec.Struct)
        else {key: msgspec.structs.asdict(part) for key, part in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in msgspec.structs.asdict(record).items()
    }


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_counters_of_64_bits(number):
    record = msgspec.structs.replace(COUNTERS, rx_packets=number)
    message = own_message(record)
    value = make_encoder("protobuf", IDENTITY).encode_counters(record)
    assert type(message).FromString(value).rx_packets == number
    value = make_encoder("avro", IDENTITY).encode_counters(record)
    assert from_avro(value, Stream.COUNTERS)["rx_packets"] % 2**64 == number


@pytest.mark.parametrize("name", ["protobuf", "avro"])
def test_frames_stand_before_every_value(name):
    prefixes = Prefixes({kind: bytes([0, 0, 0, 0, 7 * kind]) for kind in RecordType})
    records = random_flows(7)
    records["record_type"] = [1, 2, 1, 1, 2, 2, 1]
    bare, framed = make_encoder(name, IDENTITY), make_encoder(name, IDENTITY, prefixes=prefixes)
    assert framed.encode(records) == [
        bytes([0, 0, 0, 0, 7 * kind]) + value
        for kind, value in zip(records["record_type"].tolist(), bare.encode(records), strict=True)
    ]
    assert framed.encode_counters(COUNTERS) == b"\0\0\0\0\x15" + bare.encode_counters(COUNTERS)

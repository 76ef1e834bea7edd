"""The schema registry: what is registered, and that its own client reads the values."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from support.records import COUNTERS, random_flows
from test_binary_formats import message_class

import flowstream
from flowstream import schemas
from flowstream.encode import Identity, make_encoder, stamp
from flowstream.errors import SinkError, UsageError
from flowstream.records import RecordType
from flowstream.registry import client as registry
from flowstream.registry.encoder import frames_of
from flowstream.streams import Stream

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema

IDENTITY = Identity(1_700_000_000_000_000_003, bytes(range(16)), "host-a", {3: "eth0"})


@pytest.fixture
def client():
    return registry.connect("mock://registry")


def prefix(frames, record_type: int) -> bytes:
    return frames.of(np.array([record_type])).tobytes()


@pytest.mark.parametrize(("record_format", "end"), [("avro", b""), ("protobuf", b"\0")])
def test_schemas_are_registered_once_under_their_topics(client, record_format, end):
    frames = registry.frames(client, record_format, "site.a")
    again = registry.frames(client, record_format, "site.a")
    assert client.get_subjects() == [f"site.a.{stream}-value" for stream in Stream]
    for stream, record_type in zip(Stream, RecordType, strict=True):
        found = client.get_latest_version(f"site.a.{stream}-value")
        assert found.schema.schema_str == schemas.text(record_format, stream)
        assert found.schema.schema_type == record_format.upper()
        expected = b"\0" + found.schema_id.to_bytes(4) + end
        assert prefix(frames, record_type) == prefix(again, record_type) == expected
        assert len(client.get_versions(f"site.a.{stream}-value")) == 1


def test_avro_is_read_by_the_registrys_deserializer(client):
    frames = registry.frames(client, "avro", "flowstream")
    records = random_flows(5)
    records["record_type"] = [1, 2, 1, 2, 2]
    stamp(records, IDENTITY, 11)
    encoder = make_encoder("avro", IDENTITY, frames=frames)
    read = AvroDeserializer(client)
    context = SerializationContext("flowstream.flows", MessageField.VALUE)
    found = [read(value, context) for value in encoder.encode(records)]
    assert [(each["record_type"], each["seq"]) for each in found] == [
        *((1, 11), (2, 12), (1, 13), (2, 14), (2, 15))
    ]
    context = SerializationContext("flowstream.counters", MessageField.VALUE)
    counters = read(encoder.encode_counters(COUNTERS), context)
    assert counters["losses"]["delivery_timeout"]["packets"] == 11


def test_protobuf_follows_its_frame(client):
    frames = registry.frames(client, "protobuf", "flowstream")
    (value,) = make_encoder("protobuf", IDENTITY, frames=frames).encode(random_flows(1))
    known = client.get_schema(int.from_bytes(value[1:5]))
    assert (value[:1], value[5:6]) == (b"\0", b"\0")
    message = message_class(known.schema_str, "flowstream.FlowMessage").FromString(value[6:])
    assert message.dst_port == 443


def test_the_client_is_imported_only_for_a_registry():
    code = (
        "import sys, flowstream.agent.run, flowstream.pcap;"
        "from flowstream.registry.encoder import frames_of;"
        "print(frames_of(None, 'json', 'flowstream'), 'confluent_kafka' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("None False\n", "")


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.delitem(sys.modules, "flowstream.registry.client")
    monkeypatch.delattr(flowstream.registry, "client")
    # The import system's documented way of saying that there is none.
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(UsageError, match=r"^registry: it needs pip install 'flowstream\[reg"):
        frames_of("mock://registry", "avro", "flowstream")


class Refusing:
    """A registry that answers as it is told; everything else is the mock's."""

    def __init__(self, client, lookup: int, register: int) -> None:
        self._client, self._lookup, self._register = client, lookup, register

    def config(self):
        return {"url": "https://user:secret@registry.example:8081/path"}

    def lookup_schema(self, subject: str, schema: Schema):
        raise SchemaRegistryError(self._lookup, self._lookup * 100 + 1, "said at lookup")

    def register_schema(self, subject: str, schema: Schema):
        raise SchemaRegistryError(self._register, self._register * 100 + 1, "said at registering")


@pytest.mark.parametrize(
    ("lookup", "register", "expected"),
    [
        (404, 409, "its schema is not compatible with this version's: said at registering"),
        (404, 403, r"access denied: said at registering \(HTTP 403\); put USER:PASSWORD@ before"),
        (404, 404, r"no registry's API at this path \(HTTP 404\); Apicurio's is /apis/ccompat/v7"),
        (404, 422, r"the schema was refused: said at registering \(HTTP 422\)"),
        (401, 409, r"access denied: said at lookup \(HTTP 401\)"),
        (500, 409, r"the schema was refused: said at lookup \(HTTP 500\)"),
    ],
)
def test_refusals_name_registry_and_subject(client, lookup, register, expected):
    with pytest.raises(SinkError, match=expected) as caught:
        registry.frames(Refusing(client, lookup, register), "avro", "flowstream")
    where = "registry https://registry.example:8081/path: subject flowstream.flows-value: "
    assert str(caught.value).startswith(where)


def test_no_registry_there(unused_port):
    client = registry.connect(f"http://user:secret@127.0.0.1:{unused_port}")
    with pytest.raises(SinkError, match=r"cannot be used: .*refused") as caught:
        registry.frames(client, "avro", "flowstream")
    assert "secret" not in str(caught.value)
    assert f"registry http://127.0.0.1:{unused_port}: " in str(caught.value)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

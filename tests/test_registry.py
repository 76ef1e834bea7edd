"""The schema registry: registered schemas, and values that its own client reads."""

from __future__ import annotations

import socket
import subprocess
import sys

import numpy as np
import pytest
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.records import COUNTERS, random_flows
from support.registry import Registry
from test_binary_formats import message_class

import flowstream
from flowstream import schemas
from flowstream.encode import Identity, make_encoder, stamp
from flowstream.errors import SinkError, UsageError
from flowstream.records import RecordType
from flowstream.registry import client as registry_client
from flowstream.registry.encoder import prefixes_of
from flowstream.streams import Stream

IDENTITY = Identity(1_700_000_000_000_000_000, bytes(range(16)), "host-a", bytes(16), {3: "eth0"})


@pytest.fixture
def client(registry):
    return registry_client.connect(registry.url)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def prefix(prefixes, record_type: int) -> bytes:
    return prefixes.of(np.array([record_type])).tobytes()


@pytest.mark.parametrize(("record_format", "end"), [("avro", b""), ("protobuf", b"\0")])
def test_schemas_are_registered_once_under_their_topics(registry, client, record_format, end):
    prefixes = prefixes_of(registry.url, record_format, "site.a")
    again = prefixes_of(registry.url, record_format, "site.a")
    assert client.get_subjects() == sorted(f"site.a.{stream}-value" for stream in Stream)
    for stream, record_type in zip(Stream, RecordType, strict=True):
        found = client.get_latest_version(f"site.a.{stream}-value")
        assert found.schema.schema_str == schemas.text(record_format, stream)
        assert found.schema.schema_type == record_format.upper()
        expected = b"\0" + found.schema_id.to_bytes(4) + end
        assert prefix(prefixes, record_type) == prefix(again, record_type) == expected
        assert client.get_versions(f"site.a.{stream}-value") == [1]


def test_a_registered_schema_needs_no_right_to_register(registry):
    first = prefixes_of(registry.url, "avro", "flowstream")
    registry.refusals["register"] = (403, "read only")
    second = prefixes_of(registry.url, "avro", "flowstream")
    for record_type in RecordType:
        assert prefix(first, record_type) == prefix(second, record_type)


def test_avro_is_read_by_the_registrys_deserializer(registry, client):
    prefixes = prefixes_of(registry.url, "avro", "flowstream")
    records = random_flows(5)
    records["record_type"] = [1, 2, 1, 2, 2]
    stamp(records, IDENTITY, 11)
    encoder = make_encoder("avro", IDENTITY, prefixes=prefixes)
    read = AvroDeserializer(client)
    context = SerializationContext("flowstream.flows", MessageField.VALUE)
    found = [read(value, context) for value in encoder.encode(records)]
    assert [(each["record_type"], each["seq"]) for each in found] == [
        *((1, 11), (2, 12), (1, 13), (2, 14), (2, 15))
    ]
    context = SerializationContext("flowstream.counters", MessageField.VALUE)
    counters = read(encoder.encode_counters(COUNTERS), context)
    assert counters["losses"]["delivery_timeout"]["packets"] == 11


def test_protobuf_follows_its_prefix(registry, client):
    prefixes = prefixes_of(registry.url, "protobuf", "flowstream")
    (value,) = make_encoder("protobuf", IDENTITY, prefixes=prefixes).encode(random_flows(1))
    known = client.get_schema(int.from_bytes(value[1:5]))
    assert (value[:1], value[5:6]) == (b"\0", b"\0")
    message = message_class(known.schema_str, "flowstream.FlowMessage").FromString(value[6:])
    assert message.dst_port == 443


def test_the_client_library_is_imported_only_for_a_registry():
    code = (
        "import sys, flowstream.agent.run, flowstream.pcap;"
        "from flowstream.registry.encoder import prefixes_of;"
        "print(prefixes_of(None, 'json', 'flowstream'), 'confluent_kafka' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("None False\n", "")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "flowstream.registry.client")
    monkeypatch.delattr(flowstream.registry, "client")
    # Documented by the import system: None makes the import fail.
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    expected = r"^registry: requires: pip install 'flowstream\[registry\]'$"
    with pytest.raises(UsageError, match=expected):
        prefixes_of("http://127.0.0.1:1", "avro", "flowstream")


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("register", 409, "its schema is not compatible with this version's: no (HTTP 409); use"),
        ("register", 403, "access denied: no (HTTP 403); put USER:PASSWORD@ before the registry"),
        ("register", 404, "no registry API at this path (HTTP 404); Apicurio's path is /apis/"),
        ("register", 422, "the schema was refused: no (HTTP 422)"),
        ("lookup", 401, "access denied: no (HTTP 401)"),
        ("lookup", 500, "the schema was refused: no (HTTP 500)"),
    ],
)
def test_refusals_name_registry_and_subject(registry, asked, status, expected):
    registry.refusals[asked] = (status, "no")
    with pytest.raises(SinkError) as caught:
        prefixes_of(registry.url, "avro", "flowstream")
    where = f"registry {registry.url}: subject flowstream.flows-value: "
    assert str(caught.value).startswith(where + expected)


def test_a_registry_elsewhere_on_the_host_is_named_by_its_path(registry):
    with pytest.raises(SinkError) as caught:
        prefixes_of(f"{registry.url}/elsewhere", "avro", "flowstream")
    assert str(caught.value) == (
        f"registry {registry.url}/elsewhere: subject flowstream.flows-value: "
        "no registry API at this path (HTTP 404); Apicurio's path is /apis/ccompat/v7"
    )


def test_user_and_password_are_sent_and_never_shown():
    with Registry(login="user:secret") as registry:
        assert prefix(prefixes_of(registry.url, "avro", "site"), RecordType.FLOW)
        assert len(registry.subjects) == len(Stream)
        wrong = registry.url.replace("secret", "s3cret")
        with pytest.raises(SinkError) as caught:
            prefixes_of(wrong, "avro", "site")
    assert str(caught.value) == (
        f"registry http://{registry.address}: subject site.flows-value: access denied: "
        "Unauthorized (HTTP 401); put USER:PASSWORD@ before the registry's host"
    )


def test_a_registry_that_is_not_running(unused_port):
    with pytest.raises(SinkError, match=r"cannot be used: .*refused") as caught:
        prefixes_of(f"http://user:secret@127.0.0.1:{unused_port}", "avro", "flowstream")
    assert "secret" not in str(caught.value)
    assert f"registry http://127.0.0.1:{unused_port}: " in str(caught.value)

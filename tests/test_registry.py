"""The schema registry: registered schemas, and values that its own client reads."""

from __future__ import annotations

import re
import reprlib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.records import COUNTERS, random_flows
from support.registry import Registry
from test_binary_formats import message_class

from flowstream import schemas
from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder, stamp
from flowstream.errors import SinkError, UsageError
from flowstream.host.privileges import find_user
from flowstream.records import RecordType
from flowstream.registry import client as registry_client
from flowstream.registry.encoder import prefixes_of as prefixes_of_user
from flowstream.streams import Stream
from flowstream.urls import REGISTRY_FORMS, parse_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The registry has threads of this process, which a process without privileges does not touch.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

IDENTITY = Identity(1_700_000_000_000_000_000, bytes(range(16)), "host-a", bytes(16), {3: "eth0"})


@pytest.fixture
def client(registry):
    """Confluent's own client."""
    return SchemaRegistryClient({"url": registry.url})


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def prefixes_of(url, record_format, topic_prefix):
    return prefixes_of_user(url, record_format, topic_prefix, find_user("nobody"))


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


def test_the_client_is_imported_only_for_a_registry():
    code = (
        "import sys, flowstream.agent.run, flowstream.pcap;"
        "print('flowstream.registry.client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


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


def said(url: str) -> str:
    """The one line that refuses the registry at ``url``."""
    with pytest.raises(SinkError) as caught:
        prefixes_of(url, "avro", "flowstream")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).removeprefix(f"registry {url}: ")


def answer(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"id": %s}' % value for value in (b"-1", b"1.5", b'"7"', b"null", b"[1]", b"true")),
        *(b'{"id": %d}' % value for value in (2**31, 2**64, 10**300)),
        *(b"{}", b"[]", b"7", b"null", b"", b"<html>", b'{"id": 7', b'{"id": 7} 8'),
        *(b"\xff\xfe", b"[" * 100_000),
        b'{"schema": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_an_answer_without_an_id_is_refused(registry, body):
    registry.raw = lambda: [answer(body)]
    assert said(registry.url).startswith(
        "subject flowstream.flows-value: its answer names no schema id: "
    )


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1])
def test_every_id_of_31_bits_is_taken(registry, number):
    registry.raw = lambda: [answer(b'{"id": %d}' % number)]
    found = prefixes_of(registry.url, "avro", "flowstream")
    assert prefix(found, RecordType.FLOW) == b"\0" + number.to_bytes(4)


def test_an_answer_that_is_not_json_names_its_type(registry):
    registry.raw = lambda: [answer(b'{"id": 7}', kind="text/html")]
    assert said(registry.url) == (
        "subject flowstream.flows-value: its answer is not JSON but text/html: "
        "is it a schema registry?"
    )


def test_no_redirect_is_followed(registry):
    head = b"HTTP/1.1 302 Found\r\nLocation: http://bob:s3cret@10.0.0.9/\r\n\r\n"
    registry.raw = lambda: [head]
    assert said(registry.url) == (
        "subject flowstream.flows-value: the registry is elsewhere, and no redirect is "
        "followed: http://10.0.0.9/ (HTTP 302)"
    )
    assert len(registry.users) == 1


def test_text_of_a_refusal_is_short_and_printable(registry):
    registry.refusals["lookup"] = (422, "\x1b[2Jline\n" + "x" * 10_000)
    assert said(registry.url) == (
        f"subject flowstream.flows-value: the schema was refused: ?[2Jline?{'x' * 191}... "
        "(HTTP 422)"
    )


def chunks(head: bytes, part: bytes, pause_s: float = 0) -> Iterator[bytes]:
    """An answer that never ends."""
    yield head
    while True:
        time.sleep(pause_s)
        yield part


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MIB = b" " * (1 << 20)


@pytest.mark.parametrize(
    "parts",
    [
        lambda: chunks(OK + b"\r\n", MIB),
        lambda: chunks(OK + b"Content-Length: 3221225472\r\n\r\n", MIB),
        lambda: chunks(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + MIB + b"\r\n"),
        lambda: chunks(b"HTTP/1.1 404 No\r\n\r\n", MIB),
        lambda: [answer(b'{"id": 7}' + MIB)],
    ],
    ids=["endless", "3 GiB", "chunked", "refusal", "1 MiB and more"],
)
def test_no_more_than_a_mebibyte_of_an_answer_is_read(registry, parts):
    sent = []
    registry.raw = lambda: (sent.append(part) or part for part in parts())
    expected = "subject flowstream.flows-value: its answer is larger than 1 MiB"
    assert said(registry.url) == expected
    # All that left the registry, most of it into buffers of the sockets.
    assert len(sent) < 32


@pytest.mark.parametrize(
    "parts",
    [
        lambda: chunks(OK + b"\r\n", b" ", 0.1),
        lambda: chunks(OK, b"X: y\r\n", 0.2),
        lambda: chunks(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        lambda: chunks(b"H", b"", 60),
    ],
    ids=["body", "headers", "interim answers", "silence"],
)
def test_a_slow_registry_is_given_up(registry, monkeypatch, parts):
    monkeypatch.setattr(registry_client, "TIMEOUT_S", 1.0)
    registry.raw = parts
    assert said(registry.url) in (
        "no complete answer after 1 s",
        "cannot be used: timed out",
    )


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        OK + b"Content-Length: x\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        OK + b"X: y\r\n" * 200 + b"\r\n",
        b"H" * 100_000,
    ],
    ids=repr,
)
def test_what_is_not_http_is_refused(registry, head):
    registry.raw = lambda: [head]
    assert re.match(
        r"(cannot be used: .)|(subject \S+: its answer names no schema id)", said(registry.url)
    )


def test_the_registry_is_asked_without_privileges(registry):
    prefixes_of(registry.url, "avro", "flowstream")
    assert set(registry.users) == {find_user("nobody").uid}


@pytest.mark.parametrize(
    "url",
    [
        *("http://[bad", "http://[::1]x:7", "http://a:b:c", "http://a:0", "http://a:65536"),
        *("http://", "http://:80", "http:///path", "ftp://a", "http://a/?x=1", "http://a/#b"),
        *("http://a\u00e9", "http://a\x00", "http://" + "a" * 300),
    ],
)
def test_a_url_with_a_mistake(url):
    with pytest.raises(UsageError) as caught:
        parse_registry(url)
    assert str(caught.value) == (
        f"registry: {reprlib.repr(url)} is not allowed; it takes {REGISTRY_FORMS}"
    )


def test_a_url_with_a_mistake_does_not_show_its_password():
    with pytest.raises(UsageError, match="registry: the URL is not allowed") as caught:
        parse_registry("http://bob:s3cret/more@registry:8081")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://a", "https://a-b.example:8081/x", "http://[::1]:8081"])
def test_a_url_is_shown_as_it_was_given(url):
    assert str(parse_registry(url)) == url


def test_a_host_name_that_cannot_be_encoded_is_one_line():
    assert said(f"http://{'a' * 64}.example").startswith("cannot be used: ")


@pytest.fixture
def certificate(tmp_path) -> Path:
    """Of 127.0.0.1, signed by itself; with its key."""
    path = tmp_path / "registry.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "1", "-subj", "/CN=registry", "-addext"),
        *("subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "cert")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "cert").read_bytes())
    return path


def test_a_registry_with_tls_needs_a_certificate_that_the_host_trusts(certificate, monkeypatch):
    with Registry(certificate=certificate) as registry:
        assert "certificate verify failed" in said(registry.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert prefix(prefixes_of(registry.url, "avro", "site"), RecordType.FLOW)

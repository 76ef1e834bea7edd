"""What is wrong with a connection, told apart by a look of our own; aiokafka has one error."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from broker.certificates import Authority
from broker.secure import AGENT, PASSWORDS, SecureBroker
from broker.tokens import CLIENT_ID, CLIENT_SECRET, TokenEndpoint

from flowstream.kafka import walk as walking
from flowstream.kafka.diagnosis import diagnosed, why_unreachable
from flowstream.kafka.looks import Step
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import ClientSettings, OAuth, Sasl, Tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

SLOW = "answers, but not in time; raise request.timeout.ms or look at its load"
OFFERED = "OAUTHBEARER, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"
NO_BROKER = "accepts connections but does not answer as a Kafka broker"
OTHER_PORT = "use the port of a Kafka listener"


def tls(broker: SecureBroker, **changes: object) -> Tls:
    return Tls(**{"ca": broker.authority.certificate} | changes)


def client(identity) -> dict[str, Path]:
    return {"certificate": identity.certificate, "key": identity.key}


def login(mechanism: str = "SCRAM-SHA-256", user: str = AGENT, password: str = "") -> Sasl:
    return Sasl(mechanism, user, Secret(password or PASSWORDS.get(user, "unknown")))


def at(broker: SecureBroker, listener: str) -> str:
    return f"127.0.0.1:{broker.ports[listener]}"


# The listener, then what the client has of TLS and of SASL.
USABLE = {
    "plaintext": ("PLAINTEXT", None, None),
    "TLS": ("TLS", tls, None),
    "a client's certificate": ("MTLS", lambda b: tls(b, **client(b.client)), None),
    "PLAIN": ("SASL", tls, login("PLAIN")),
    "SCRAM-SHA-256": ("SASL", tls, login()),
    "SCRAM-SHA-512": ("BARE", None, login("SCRAM-SHA-512")),
    "another host, not checked": ("FOREIGN", lambda b: tls(b, check_host=False), None),
}

UNTRUSTED = (
    "has a certificate of an authority that is not trusted here "
    "(unable to get local issuer certificate); set ssl.ca.location to the certificate of its "
    "authority"
)
REFUSED_CERTIFICATE = (
    "refuses this client's certificate (certificate unknown); set ssl.certificate.location to one "
    "that is valid now, of an authority that the broker trusts"
)


def wrong_login(user: str, mechanism: str) -> str:
    return (
        f"refuses the user {user} or the password ({mechanism}); "
        "correct sasl.username and sasl.password, or the account on the broker"
    )


FAULTS = {
    "wrong password, SCRAM": (
        *("SASL", tls, login(password="wrong")),
        wrong_login("agent", "SCRAM-SHA-256"),
    ),
    "wrong password, PLAIN": (
        *("BARE", None, login("PLAIN", password="wrong")),
        wrong_login("agent", "PLAIN"),
    ),
    "unknown user": (
        *("SASL", tls, login("SCRAM-SHA-512", "nobody")),
        wrong_login("nobody", "SCRAM-SHA-512"),
    ),
    "unsupported mechanism": (
        *("SASL", tls, login("GSSAPI")),
        f"does not support sasl.mechanism=GSSAPI; set one that it offers: {OFFERED}",
    ),
    "untrusted authority": (
        *("TLS", lambda b: tls(b, ca=b.other_authority.certificate), None),
        UNTRUSTED,
    ),
    "the host's authorities": ("TLS", lambda _: Tls(), None, UNTRUSTED),
    "expired certificate": (
        *("EXPIRED", tls, None),
        (
            "has a certificate that has expired; renew it, or correct this host's clock, where it "
            "is TODAY"
        ),
    ),
    "wrong host name": (
        *("FOREIGN", tls, None),
        (
            "has a certificate for broker.example, not for 127.0.0.1; use a name of the "
            "certificate in the address, or renew it, or set "
            "ssl.endpoint.identification.algorithm=none"
        ),
    ),
    "client's certificate required": (
        *("MTLS", tls, None),
        "requires a certificate of the client; set ssl.certificate.location and ssl.key.location",
    ),
    "client's certificate of an untrusted authority": (
        *("MTLS", lambda b: tls(b, **client(b.untrusted_client)), None),
        REFUSED_CERTIFICATE,
    ),
    "client's certificate expired": (
        *("MTLS", lambda b: tls(b, **client(b.expired_client)), None),
        REFUSED_CERTIFICATE,
    ),
    "plaintext to TLS": (
        *("TLS", None, None),
        "requires TLS; set security.protocol=SSL, or SASL_SSL with SASL",
    ),
    "SASL without TLS to TLS": (
        *("SASL", None, login()),
        "requires TLS; set security.protocol=SASL_SSL",
    ),
    "TLS to plaintext": (
        *("PLAINTEXT", tls, None),
        "has no TLS; use the port of its TLS listener, or set security.protocol=PLAINTEXT",
    ),
    "TLS to SASL without TLS": (
        *("BARE", tls, login()),
        "has no TLS; use the port of its TLS listener, or set security.protocol=SASL_PLAINTEXT",
    ),
    "SASL to plaintext": (
        *("PLAINTEXT", None, login()),
        "has no SASL; use the port of its SASL listener, or set security.protocol=PLAINTEXT",
    ),
    "SASL to TLS": (
        *("TLS", tls, login()),
        "has no SASL; use the port of its SASL listener, or set security.protocol=SSL",
    ),
    "no SASL": (
        *("BARE", None, None),
        (
            f"requires SASL ({OFFERED}); set security.protocol=SASL_PLAINTEXT, sasl.mechanism and "
            "the credentials"
        ),
    ),
    "TLS without SASL": (
        *("SASL", tls, None),
        (
            f"requires SASL ({OFFERED}); set security.protocol=SASL_SSL, sasl.mechanism and the "
            "credentials"
        ),
    ),
}


def settings_of(broker: SecureBroker, listener: str, tls_of, sasl: Sasl | None) -> ClientSettings:
    made = tls_of(broker) if tls_of else None
    return ClientSettings((at(broker, listener),), tls=made, sasl=sasl)


@pytest.mark.parametrize("case", USABLE)
async def test_a_broker_that_can_be_used(secure_broker: SecureBroker, case: str) -> None:
    settings = settings_of(secure_broker, *USABLE[case])
    text, lasting = await diagnosed(settings)
    assert text == f"{settings.addresses[0]} {SLOW}"
    assert not lasting


@pytest.mark.parametrize("case", FAULTS)
async def test_faults_are_told_apart(secure_broker: SecureBroker, case: str) -> None:
    *which, expected = FAULTS[case]
    settings = settings_of(secure_broker, *which)
    text, lasting = await diagnosed(settings)
    expected = expected.replace("TODAY", str(datetime.now(UTC).date()))
    assert text == f"{settings.addresses[0]} {expected}"
    assert lasting


@contextlib.contextmanager
def deaf_listener() -> Iterator[str]:
    """An address whose host drops attempts to connect; yields it."""
    with contextlib.ExitStack() as stack:
        # A queue of one connection, which is full: Linux drops what comes then.
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = server.getsockname()
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(place)
        yield f"127.0.0.1:{place[1]}"


async def test_a_host_that_drops_packets(monkeypatch) -> None:
    monkeypatch.setattr(walking, "_CONNECT_TIMEOUT", 0.2)
    with deaf_listener() as address:
        text, lasting = await diagnosed(ClientSettings((address,)))
    assert text == f"{address} does not answer; check the address, routes and firewalls"
    assert not lasting


async def test_a_name_of_the_certificate(secure_broker: SecureBroker) -> None:
    """It may resolve to addresses of which only one listens."""
    address = f"localhost:{secure_broker.ports['TLS']}"
    found = await walking.walk(ClientSettings(tls=tls(secure_broker)), address)
    assert found.fault is None
    assert "127.0.0.1" in found.looks[0].result


async def test_the_steps_of_a_client(secure_broker: SecureBroker) -> None:
    address = at(secure_broker, "SASL")
    found = await walking.walk(settings_of(secure_broker, "SASL", tls, login()), address)
    assert [(look.step, look.result) for look in found.looks] == [
        (Step.RESOLVE, "127.0.0.1"),
        (Step.CONNECT, "accepts connections"),
        (Step.TLS, "TLSv1.3, a certificate of flowstream test authority, valid for 29 more days"),
        (Step.SASL, "authenticated as agent by SCRAM-SHA-256"),
        (Step.METADATA, "1 broker"),
    ]
    assert (found.brokers, found.days_left) == ((address,), 29)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (CLIENT_SECRET, SLOW),
        (
            "wrong",
            (
                "needs a token: token endpoint ENDPOINT: refused: HTTP 401 invalid_client; "
                "check the sasl.oauthbearer properties"
            ),
        ),
    ],
)
async def test_tokens(secure_broker: SecureBroker, secret: str, expected: str) -> None:
    with TokenEndpoint() as endpoint:
        sasl = Sasl("OAUTHBEARER", oauth=OAuth(endpoint.url, CLIENT_ID, Secret(secret)))
        settings = settings_of(secure_broker, "SASL", tls, sasl)
        text = await why_unreachable(settings)
        place = re.sub(r"http://(.*)/token", r"\1", endpoint.url)
    assert text == f"{settings.addresses[0]} {expected.replace('ENDPOINT', place)}"


async def test_a_token_that_the_broker_refuses(secure_broker: SecureBroker) -> None:
    with TokenEndpoint() as endpoint:
        endpoint.lifetime_s = -60
        sasl = Sasl("OAUTHBEARER", oauth=OAuth(endpoint.url, CLIENT_ID, Secret(CLIENT_SECRET)))
        settings = settings_of(secure_broker, "SASL", tls, sasl)
        text = await why_unreachable(settings)
    assert text == (
        f"{settings.addresses[0]} refuses the token; "
        "check its scope and audience, and the issuer that the broker trusts"
    )


async def test_each_address_has_its_fault(secure_broker: SecureBroker) -> None:
    addresses = (at(secure_broker, "TLS"), "127.0.0.1:1")
    text, lasting = await diagnosed(ClientSettings(addresses))
    assert text == (
        f"{addresses[0]} requires TLS; set security.protocol=SSL, or SASL_SSL with SASL; "
        "127.0.0.1:1 connection refused; start a broker there or correct the address"
    )
    assert not lasting


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:65536", "is not an address; correct the address"),
        (":9092", "is not an address; correct the address"),
        (f"{'a' * 64}.example:9092", "does not resolve to an address; correct the address"),
        ("no-such-host.invalid:9092", "does not resolve to an address; correct the address"),
    ],
)
@pytest.mark.parametrize("with_tls", [False, True])
async def test_addresses(address: str, expected: str, with_tls: bool) -> None:
    settings = ClientSettings((address,), tls=Tls() if with_tls else None)
    assert await why_unreachable(settings) == f"{address} {expected}"


Answer = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]"


@contextlib.asynccontextmanager
async def listener(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A peer that treats each connection so; yields its address."""

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


async def closing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(4)


async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer of 1 MiB, an octet at a time."""
    writer.write(struct.pack(">i", 1 << 20))
    while not writer.is_closing():
        writer.write(b"\0")
        await writer.drain()
        await asyncio.sleep(0.01)


def flooding(begin: bytes) -> Answer:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while not writer.is_closing():
            writer.write(bytes(1 << 16))
            await writer.drain()

    return flood


def saying(answer: bytes) -> Answer:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        await writer.drain()

    return say


def deadline_for(answer: Answer) -> float:
    """Seconds: short for what never answers, else longer than a busy machine needs."""
    return 0.5 if answer in (silent, dripping) else 30


LARGEST = struct.pack(">i", 2**31 - 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (silent, f"{NO_BROKER}; {OTHER_PORT}"),
        (closing, f"{NO_BROKER}: it closes the connection; {OTHER_PORT}"),
        (dripping, f"{NO_BROKER}; {OTHER_PORT}"),
        (
            flooding(LARGEST),
            f"{NO_BROKER}: it announces an answer of 2147483647 octets; {OTHER_PORT}",
        ),
        (
            saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            f"{NO_BROKER}: it announces an answer of 1213486160 octets; {OTHER_PORT}",
        ),
        (
            saying(struct.pack(">i", -1)),
            f"{NO_BROKER}: it announces an answer of -1 octets; {OTHER_PORT}",
        ),
        (
            saying(struct.pack(">ii", 4, 7)),
            f"{NO_BROKER}: it answers another request; {OTHER_PORT}",
        ),
        (
            saying(struct.pack(">iihi", 10, 1, 0, 2**31 - 1)),
            f"{NO_BROKER}: it sends an answer that cannot be read; {OTHER_PORT}",
        ),
    ],
)
async def test_peers_that_are_no_broker(monkeypatch, answer: Answer, expected: str) -> None:
    """They cost neither memory nor more than the time limit."""
    monkeypatch.setattr(walking, "DEADLINE", deadline_for(answer))
    async with listener(answer) as address:
        tracemalloc.start()
        try:
            async with asyncio.timeout(60):
                text = await why_unreachable(ClientSettings((address,)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert text == f"{address} {expected}"
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (silent, f"accepts connections but does not answer the TLS handshake; {OTHER_PORT}"),
        (closing, f"accepts connections but closes them in the TLS handshake; {OTHER_PORT}"),
        # A record of TLS, of the largest length, and then octets without sense.
        (
            flooding(b"\x16\x03\x03\xff\xff"),
            "fails in TLS (packet length too long); see the broker's log",
        ),
        (
            flooding(LARGEST),
            f"accepts connections but closes them in the TLS handshake; {OTHER_PORT}",
        ),
    ],
)
async def test_peers_that_have_no_tls(monkeypatch, answer: Answer, expected: str) -> None:
    monkeypatch.setattr(walking, "DEADLINE", deadline_for(answer))
    async with listener(answer) as address, asyncio.timeout(60):
        text = await why_unreachable(ClientSettings((address,), tls=Tls()))
    assert text == f"{address} {expected}"


def server_context(authority: Authority) -> ssl.SSLContext:
    identity = authority.issue("python")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    return context


async def test_a_peer_with_tls_that_is_no_broker(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(walking, "DEADLINE", 0.5)
    authority = Authority(tmp_path, "authority")
    trusting = Tls(authority.certificate)
    async with listener(silent, server_context(authority)) as address:
        text = await why_unreachable(ClientSettings((address,), tls=trusting))
    assert (
        text
        == f"{address} accepts connections but does not answer the TLS handshake; {OTHER_PORT}"
    )


async def test_no_cipher_in_common(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    context = server_context(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    # Of no use with its key, which is one of elliptic curves.
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            # asyncio's server would close without an alert.
            connection, _ = server.accept()
            with connection, contextlib.suppress(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        address = f"127.0.0.1:{server.getsockname()[1]}"
        settings = ClientSettings((address,), tls=Tls(authority.certificate))
        text, _ = await asyncio.gather(why_unreachable(settings), asyncio.to_thread(refuse))
    assert text == (
        f"{address} has no version or cipher of TLS in common with this host "
        "(handshake failure); enable TLSv1.2 or TLSv1.3 on the broker"
    )


async def test_a_certificate_of_the_future(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    identity = authority.issue("later", begins=timedelta(days=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    async with listener(silent, context) as address:
        text = await why_unreachable(ClientSettings((address,), tls=Tls(authority.certificate)))
    today = datetime.now(UTC).date()
    assert text == (
        f"{address} has a certificate that is not valid yet; "
        f"correct this host's clock, where it is {today}, or the certificate"
    )


class Script:
    """A peer that answers requests in turn with these bodies, then closes."""

    def __init__(self, *bodies: bytes) -> None:
        self._bodies = bodies

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in self._bodies:
            (length,) = struct.unpack(">i", await reader.readexactly(4))
            request = await reader.readexactly(length)
            writer.write(struct.pack(">i", 4 + len(body)) + request[4:8] + body)
            await writer.drain()


VERSIONS = struct.pack(">hi", 0, 0)


def offering(*names: bytes, code: int = 0) -> bytes:
    return struct.pack(">hi", code, len(names)) + b"".join(
        struct.pack(">h", len(name)) + name for name in names
    )


def sasl_answer(octets: bytes, code: int = 0) -> bytes:
    return struct.pack(">hhi", code, -1, len(octets)) + octets


SENSELESS = "sends a SASL answer that makes no sense; check the broker"


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ((offering(code=35),), "refuses SASL (UnsupportedVersionError); see the broker's log"),
        ((offering(), sasl_answer(b"")), SENSELESS),
        ((offering(), sasl_answer(b"\xff\xfe")), SENSELESS),
        ((offering(), sasl_answer(b"r=other,s=c2FsdA==,i=4096")), SENSELESS),
        # So many rounds of hashing would take hours, in a thread that nothing ends.
        ((offering(), sasl_answer(b"r=x,s=c2FsdA==,i=2147483647")), SENSELESS),
        ((offering(),), f"{NO_BROKER}: it closes the connection; {OTHER_PORT}"),
    ],
)
async def test_sasl_without_sense(bodies: tuple[bytes, ...], expected: str) -> None:
    async with listener(Script(VERSIONS, *bodies)) as address, asyncio.timeout(60):
        text = await why_unreachable(ClientSettings((address,), sasl=login()))
    assert text == f"{address} {expected}"


async def test_what_a_peer_says_is_cut_and_is_one_line() -> None:
    offer = offering(b"A\n\x1b[2J", b"X" * 30_000, code=33)
    async with listener(Script(VERSIONS, offer)) as address:
        text = await why_unreachable(ClientSettings((address,), sasl=login()))
    assert text.isprintable()
    begin = f"{address} does not support sasl.mechanism=SCRAM-SHA-256; set one that it offers: A"
    assert text.startswith(begin)
    assert len(text) < len(begin) + 400


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (struct.pack(">i", 0), f"{NO_BROKER}: it names no broker; {OTHER_PORT}"),
        (struct.pack(">i", -1), f"{NO_BROKER}: it names no broker; {OTHER_PORT}"),
        (
            struct.pack(">iihih", 1, 7, -1, 9092, -1),
            (
                "answers, but its advertised.listeners names :9092 (is not an address); "
                "correct advertised.listeners, or make these addresses reachable"
            ),
        ),
    ],
)
async def test_brokers_without_sense(body: bytes, expected: str) -> None:
    async with listener(Script(VERSIONS, body)) as address, asyncio.timeout(60):
        text = await why_unreachable(ClientSettings((address,)))
    assert text == f"{address} {expected}"

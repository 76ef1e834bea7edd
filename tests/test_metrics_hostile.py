"""Clients that mean harm, against a real agent under traffic: it goes on, and answers others."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.agent import Agent, audited, on
from support.scraping import free_port, get, scrape
from support.traffic import load, wait_until

from flowstream.metrics.server import CONNECTIONS, REQUEST_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 1_000
GROWTH = 24 << 20
"""Octets that the agent may grow by: 32 texts, and what the allocator keeps."""
END = b"\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: h" + END


class Target(NamedTuple):
    """An agent under attack, the descriptors that it had before, and its memory then."""

    agent: Agent
    port: int
    descriptors: int
    memory: int

    def connect(self) -> socket.socket:
        """Connect as a client does."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def descriptors(agent: Agent) -> int:
    return len([*Path(f"/proc/{agent.pid}/fd").iterdir()])


def memory(agent: Agent) -> int:
    (peak,) = agent.status("VmHWM")
    return int(peak.split()[0]) * 1024


@pytest.fixture(scope="module")
def target(wire) -> Iterator[Target]:
    sender, receiver = wire
    with tempfile.TemporaryDirectory(prefix="flowstream-") as directory:
        Path(directory).chmod(0o755)
        url, port = f"file:{directory}/recording", free_port()
        options = (*on(receiver), "--sink", url, "--interval", 0.5, "--format", "msgpack")
        with Agent(*options, "--metrics", f"127.0.0.1:{port}") as agent:
            agent.publishing()
            with load(sender, 1_009, 5_000):
                assert wait_until(lambda: scrape(port).sum("published_packets_total") > 5_000)
                target = Target(agent, port, descriptors(agent), memory(agent))
                yield target
                found = scrape(port)
                grown = memory(agent) - target.memory
            agent.stop()
            assert not agent.logs("metrics_fault")
        (interface,) = audited(url)
        assert interface["difference"] == {"packets": 0, "l2_bytes": 0}
        assert interface["seen"] == interface["flows"]
        assert interface["seen"]["packets"] >= found.sum("published_packets_total") > 10_000
        assert grown < GROWTH


@pytest.fixture(autouse=True)
def _others_are_served(target) -> Iterator[None]:
    """Whatever a test does, a good client is answered after it."""
    yield
    assert get(target.port, "/healthz").status == 200
    found = scrape(target.port)
    found.require_equation()
    assert found.sum("lost_packets_total") == 0
    assert descriptors(target.agent) <= target.descriptors + CONNECTIONS + 1


def exchanged(target: Target, *parts: bytes, close: bool = True) -> bytes:
    """All that the agent says to these octets, up to the end of the connection."""
    with target.connect() as client:
        said = b""
        # It may have closed already.
        with contextlib.suppress(ConnectionError):
            for part in parts:
                client.sendall(part)
            if close:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 16):
                said += part
    return said


def status_of(said: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Z]", said)
    assert match, said[:200]
    return int(match[1])


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//metrics", "/metrics/", "/../metrics", "/./metrics", "/a/../metrics", "/METRICS"),
        *("/%6detrics", "/metrics%00", "/metrics;a=b", "/metrics/../../etc/passwd", "*"),
        *("metrics", "http://h", "http://h//metrics", "file:///etc/passwd", "/healthz/"),
    ],
)
def test_there_are_three_paths_and_no_other_spelling(target, path):
    said = exchanged(target, f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert status_of(said) == 404
    assert b"Content-Length" in said


@pytest.mark.parametrize(
    "url",
    ["/metrics?x=/../y", "http://127.0.0.1:1/metrics", "HTTPS://h/metrics?a", "/metrics?name[]=x"],
)
def test_the_absolute_form_and_queries_are_taken(target, url):
    said = exchanged(target, f"GET {url} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert status_of(said) == 200
    assert b"flowstream_seen_packets_total" in said


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 99]
)
def test_other_methods_are_refused(target, method):
    said = exchanged(target, f"{method} /metrics HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert status_of(said) == 405
    assert b"Allow: GET, HEAD" in said


@pytest.mark.parametrize(
    "header",
    ["Content-Length: 7", "Content-Length: 99999999999", "Transfer-Encoding: chunked"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_content_is_not_read(target, method, header):
    request = f"{method} /metrics HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n"
    said = exchanged(target, request.encode(), b"content", close=False)
    assert status_of(said) == 413
    assert b"Connection: close" in said


def test_a_head_has_no_content(target):
    said = exchanged(target, b"HEAD /healthz HTTP/1.1\r\nHost: h" + END)
    head, _, body = said.partition(END)
    assert (status_of(head), body) == (200, b"")
    assert b"Content-Length: 3" in head


def test_http_1_0_is_answered_and_closed(target):
    said = exchanged(target, b"GET /healthz HTTP/1.0" + END, close=False)
    assert status_of(said) == 200
    assert said.endswith(END + b"ok\n")


@pytest.mark.parametrize(
    "octets",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\nHost: h" + END,
        b"HEAD /metrics HTTP/2.0\r\nHost: h" + END,
        b"GET /metrics HTTP/1.1" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nHost: i" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nA\x00: b" + END,
        b"GET /metrics HTTP/1.1\r\nHost : h" + END,
        b"GET /metrics\x00 HTTP/1.1\r\nHost: h" + END,
        b"GET  /metrics  HTTP/1.1\r\nHost: h" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: -1" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip" + END,
        b"\r\n" * 20_000,
        bytes(20_000),
        random.Random(7).randbytes(30_000),
    ],
    ids=lambda octets: repr(octets[:30]),
)
def test_what_is_no_request_is_refused(target, octets):
    said = exchanged(target, octets, close=False)
    assert not said or status_of(said) in range(400, 506)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * REQUEST_OCTETS * 2 + b" HTTP/1.1\r\nHost: h" + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nA: " + b"a" * (1 << 20) + END,
        b"GET /metrics HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    ],
    ids=["line", "header", "headers"],
)
def test_huge_requests_are_refused_unread(target, request_):
    said = exchanged(target, request_, close=False)
    # The reset that follows may overtake the answer.
    assert not said or status_of(said) == 431


def test_a_half_closed_connection_gets_its_answer(target):
    said = exchanged(target, METRICS)
    assert status_of(said) == 200
    assert said.endswith(b"\n")
    length = int(re.search(rb"Content-Length: (\d+)", said)[1])
    assert len(said.partition(END)[2]) == length


def test_pipelined_requests_are_answered_in_order(target):
    paths = [b"/healthz", b"/nothing", b"/readyz"] * 10
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost: h" % path + END for path in paths)
    said = exchanged(target, requests)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404", b"200"] * 10


def test_a_flood_of_pipelined_requests_does_not_grow(target):
    flood = (b"GET /metrics HTTP/1.1\r\nHost: h" + END) * 50_000
    with target.connect() as client:
        client.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall(flood)
        assert get(target.port, "/healthz").status == 200


def test_an_abandoned_request_leaves_nothing(target):
    for n in range(100):
        with target.connect() as client:
            client.sendall(METRICS[: n % len(METRICS)])
            # close() resets the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert get(target.port, "/metrics").status == 200
    assert wait_until(lambda: descriptors(target.agent) <= target.descriptors + 1)


def test_a_thousand_connections_leave_room_for_one_more(target):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(MANY)]
        answer = get(target.port, "/metrics")
        assert answer.status == 200
        assert descriptors(target.agent) <= target.descriptors + CONNECTIONS + 1
        # All but the last ones were closed.
        assert wait_until(lambda: _closed(clients[0]))
        assert sum(map(_closed, clients)) >= MANY - CONNECTIONS


def _closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_clients_that_send_an_octet_at_a_time_keep_nobody_out(target):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(2 * CONNECTIONS)]
        for octet in METRICS[:-1]:
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.send(bytes([octet]))
            assert get(target.port, "/healthz").status == 200
        assert descriptors(target.agent) <= target.descriptors + CONNECTIONS + 1


def test_clients_that_fetch_no_answer_keep_nobody_out(target):
    with contextlib.ExitStack() as stack:
        for _ in range(4 * CONNECTIONS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            client.connect(("127.0.0.1", target.port))
            client.sendall(METRICS * 9)
        assert get(target.port, "/metrics").status == 200
        assert descriptors(target.agent) <= target.descriptors + CONNECTIONS + 1


def test_a_request_that_does_not_become_whole_ends(target):
    with target.connect() as client:
        client.sendall(METRICS[:-1])
        assert client.recv(1) == b""


def test_an_idle_connection_is_kept_for_the_next_scrape(target):
    with target.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h" + END)
            said = b""
            while not said.endswith(b"ok\n"):
                said += client.recv(4_096)
            assert status_of(said) == 200

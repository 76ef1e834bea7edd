"""Requests to an agent's metrics and health: each gets a whole answer, or the connection ends."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, Final

from structlog.testing import capture_logs
from support.observed import observation

from flowstream.metrics.exposition import Exposition
from flowstream.metrics.observation import Health
from flowstream.metrics.requests import Responder
from flowstream.metrics.server import Server
from fuzz import virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.metrics.observation import Observation

_END: Final = b"\r\n\r\n"
_SECONDS: Final = 3_600.0
_MOST: Final = 16_384
"""Octets of an input, which a socket takes at once."""
_STATUSES: Final = {200, 400, 404, 405, 413, 431, 501, 505}
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 (\d{3}) [ -~]+\r\n((?:[!-9;-~]+: [ -~]*\r\n)+)\r\n", re.DOTALL
)


class _Run:
    async def observe(self) -> Observation:
        return observation()

    def health(self) -> Health:
        return Health([], None, "")


def _get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"GET %b HTTP/1.1" % path, b"Host: h", *headers)) + _END


def seeds() -> Sequence[bytes]:
    """Return what clients ask for, rightly and wrongly."""
    return [
        _get(b"/healthz"),
        _get(b"/readyz", b"Connection: close"),
        _get(b"http://h/healthz?a=b") + _get(b"/nothing"),
        b"HEAD /readyz HTTP/1.0" + _END,
        b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 3" + _END + b"abc",
        b"GET /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked" + _END + b"0" + _END,
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\nExpect: 100-continue" + _END,
        b"HEAD /metrics HTTP/2.0\r\nHost: h" + _END,
        b"PRI * HTTP/2.0" + _END + b"SM" + _END,
        b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade" + _END,
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1" + _END,
    ]


def target(data: bytes) -> None:
    """Send requests and read all answers."""
    with capture_logs() as logged:
        virtual_time.run(_converse(data[:_MOST]), _SECONDS)
    assert logged == []


async def _converse(data: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        # An abstract address, which the kernel chooses.
        listener.bind("")
        listener.listen()
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        exposition = Exposition(_Run())
        server = Server(listener, Responder(_Run(), exposition))
        serving = asyncio.ensure_future(server.run())
        client.send(data)
        client.shutdown(socket.SHUT_WR)
        said = bytearray()
        try:
            while part := await loop.sock_recv(client, 1 << 16):
                said += part
        except ConnectionError:
            return
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            exposition.close()
    _check(bytes(said))


def _check(said: bytes) -> None:
    """Assert that all of it is answers, whole ones."""
    while said:
        match = _ANSWER.match(said)
        assert match, said[:300]
        assert int(match[1]) in _STATUSES, said[:300]
        length = re.search(rb"Content-Length: (\d+)\r\n", match[2])
        assert length, said[:300]
        rest = said[match.end() :]
        # Of a HEAD nothing follows.
        said = rest if rest.startswith(b"HTTP/1.1 ") else rest[int(length[1]) :]

"""A connection to a peer that may be anything, to find out what it is.

Unlike a client's, it has bounds: an answer is refused by its length before it is read.
TLS runs in memory, so that the peer's first octets are seen and its alert is raised as
the error. The caller sets the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 16 << 10
# More than any answer that is asked for here: no records are fetched.
_MOST: Final = 16 << 20
# Content types of TLS records (RFC 8446, 5.1), then the version's first octet.
_TLS_RECORDS: Final = tuple(bytes((kind, 3)) for kind in (20, 21, 22, 23))

_Result = TypeVar("_Result")


class PeerError(Exception):
    """The peer does not answer as a broker does; the text says what it does instead."""


class ClosedError(PeerError):
    """The peer closed the connection where an answer was due."""

    def __init__(self) -> None:
        super().__init__("closes the connection")


class Peer:
    """A connection that ``connect`` made.

    ``first`` is the beginning of the first octets received.
    """

    def __init__(self, sock: socket.socket, client_id: str) -> None:
        self._socket, self._client_id = sock, client_id.encode()
        self._tls: _Tls | None = None
        self._requests = 0
        self.first = b""

    @classmethod
    async def connect(cls, family: int, address: tuple[object, ...], client_id: str) -> Self:
        """Connect to an address as ``getaddrinfo`` returns it; raises ``OSError``."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock, client_id)

    @property
    def certificate(self) -> dict[str, Any]:
        """The verified certificate of the peer, as ``ssl`` returns it; {} without TLS."""
        return dict(self._tls.object.getpeercert() or {}) if self._tls else {}

    @property
    def protocol(self) -> str:
        """The version of TLS, "" without."""
        return (self._tls.object.version() or "") if self._tls else ""

    @property
    def speaks_tls(self) -> bool:
        """Whether its first octets begin a record of TLS."""
        return self.first.startswith(_TLS_RECORDS)

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Shake hands; raises ``ssl.SSLError`` and ``PeerError``."""
        tls = _Tls(context, host)
        await self._run(tls, tls.object.do_handshake)
        self._tls = tls

    async def ask(self, key: int, version: int, body: bytes) -> bytes:
        """Send a request and return the body of its answer.

        ``key`` is the API key. From a version with tagged fields on, both bodies begin
        with those of the header. Raises ``PeerError``, and ``ssl.SSLError`` for an alert
        that the peer sends instead.
        """
        self._requests += 1
        header = struct.pack(">hhih", key, version, self._requests, len(self._client_id))
        request = header + self._client_id + body
        await self._write(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", await self._read(4))
        if not 4 <= size <= _MOST:
            raise PeerError(f"announces an answer of {size} octets")
        answer = await self._read(size)
        if answer[:4] != struct.pack(">i", self._requests):
            raise PeerError("answers another request")
        return answer[4:]

    def close(self) -> None:
        """Close at once."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _write(self, data: bytes) -> None:
        if tls := self._tls:
            await self._run(tls, lambda: tls.object.write(data))
        else:
            await self._send(data)

    async def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            most = min(size - len(found), _CHUNK)
            if tls := self._tls:
                data = await self._run(tls, lambda: tls.object.read(most))  # noqa: B023
            else:
                data = await self._receive(most)
            if not data:
                raise ClosedError
            found += data
        return bytes(found)

    async def _run(self, tls: _Tls, call: Callable[[], _Result]) -> _Result:
        """Call a method of the TLS object, and again when the peer's octets are there."""
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                await self._send(tls.outgoing.read())
                tls.incoming.write(await self._receive(_CHUNK))
            except ssl.SSLError:
                with contextlib.suppress(PeerError):  # the alert is for the peer's log
                    await self._send(tls.outgoing.read())
                raise
            else:
                await self._send(tls.outgoing.read())
                return result

    async def _send(self, data: bytes) -> None:
        # The peer's last words, such as an alert, can still be read when it has closed.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _receive(self, most: int) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, most)
        except OSError as err:
            raise ClosedError from err
        if not data:
            raise ClosedError
        self.first = self.first or data[:8]
        return data


class _Tls:
    """A TLS object between two buffers in memory."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)

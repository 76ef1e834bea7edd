"""Answers of a schema registry: every request gets the input as its answer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError
from flowstream.registry.client import RegistryClient
from flowstream.urls import parse_registry

if TYPE_CHECKING:
    import http.client
    from collections.abc import Sequence

# A socket pair holds as much without a reader.
_MOST: Final = 65_536
_PASSWORD: Final = "Nobody-may-read-this"
_LONGEST_ERROR: Final = 1_024


class _Registry(RegistryClient):
    """Its connections lead to a socket that has the answer already."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(parse_registry(f"http://user:{_PASSWORD}@127.0.0.1:8081"))
        self._answer = answer
        self._far_ends: list[socket.socket] = []

    def _connection(self) -> http.client.HTTPConnection:
        connection = super()._connection()
        connection.sock, far = socket.socketpair()
        self._far_ends.append(far)
        far.sendall(self._answer)
        far.shutdown(socket.SHUT_WR)
        return connection

    def close(self) -> None:
        for far in self._far_ends:
            far.close()


def _answer(body: bytes, status: bytes = b"200 OK", header: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%b" % (status, header)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def seeds() -> Sequence[bytes]:
    """Return answers and refusals, in every form that HTTP has for a body."""
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    chunked += b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"id\r\n4;x=y\r\n":7}\r\n0\r\nA: b\r\n\r\n'
    return [
        _answer(b'{"subject":"a","version":1,"id":7,"schema":"{}"}'),
        _answer(b'{"id":2147483647}'),
        _answer(b'{"error_code":409,"message":"not compatible"}', b"409 Conflict"),
        _answer(b'{"error_code":40403,"message":"Schema not found"}', b"404 Not Found"),
        _answer(b"", b"301 Moved", b"Location: http://user:secret@elsewhere/\r\n"),
        _answer(b"", b"100 Continue") + _answer(b'{"id":3}'),
        _answer(b'{"id":7,"later":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        chunked,
        b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"id":5}',
    ]


def target(data: bytes) -> None:
    """Ask for the ids of all schemas: numbers of 31 bits, or one readable line."""
    registry = _Registry(data[:_MOST])
    try:
        found = registry.identifiers("avro", "flowstream")
    except SinkError as err:
        assert str(err).isprintable(), str(err)
        assert len(str(err)) < _LONGEST_ERROR
        assert _PASSWORD not in str(err)
    else:
        assert all(0 <= number < 2**31 for number in found)
    finally:
        registry.close()

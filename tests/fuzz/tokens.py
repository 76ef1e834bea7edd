"""Answers of a token endpoint: a token that can be sent to a broker, or one readable line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from flowstream.kafka.oauth import TokenError, TokenProvider, life_of
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import OAuth

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECRET: Final = "Nobody-may-read-this"
_LONGEST_ERROR: Final = 512
_PROVIDER: Final = TokenProvider(OAuth("http://127.0.0.1:1/token", "agent", Secret(_SECRET)))


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def seeds() -> Sequence[bytes]:
    """Return answers and refusals."""
    return [
        _answer(
            b'{"access_token":"eyJhbGciOiJub25lIn0.eyJleHAiOjE4MDAwMDAwMDB9.","expires_in":60}'
        ),
        _answer(b'{"access_token":"eyJhbGciOiJub25lIn0.eyJleHAiOjE4MDAwMDAwMDB9.x"}'),
        _answer(b'{"access_token":"a","expires_in":"3600"}'),
        _answer(b'{"error":"invalid_client","error_description":"no"}', b"401 Unauthorized"),
        _answer(b'{"error":"%b"}' % _SECRET.encode(), b"400 Bad Request"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b'HTTP/1.0 200 OK\r\n\r\n{"access_token":"b"}',
        _answer(b'{"access_token":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    ]


def target(data: bytes) -> None:
    """Parse an answer."""
    try:
        found = _PROVIDER.parsed(data)
    except TokenError as err:
        text = str(err)
        assert text.isprintable(), text
        assert len(text) < _LONGEST_ERROR
        assert _SECRET not in text
    else:
        assert re.fullmatch(r"[!-~]+", found.access_token)
        assert life_of(found) >= 0

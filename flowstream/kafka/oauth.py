"""Tokens for SASL OAUTHBEARER, by client credentials (RFC 6749, 4.4; KIP-768).

As librdkafka and Java's clients do it: client and secret in the Authorization header, and
a token is replaced after four fifths of its life. The endpoint is not trusted: time and
size of an answer are bounded, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from flowstream.kafka.looks import shown
from flowstream.kafka.reloading import revealed
from flowstream.kafka.tls import context_of_authorities
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kafka.settings import OAuth

TIMEOUT_S: Final = 10.0
LARGEST_ANSWER: Final = 1 << 18
_SHARE_OF_LIFE: Final = 0.8
_LONGEST_LIFE_S: Final = 86_400.0
# RFC 6750, 2.1.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class TokenError(KafkaError):  # type: ignore[misc]
    """No token: the endpoint cannot be reached, refuses, or answers something else.

    A connection to a broker that needs the token has failed, too.
    """


class Answer(msgspec.Struct):
    """A token, and the seconds that it is valid."""

    access_token: str
    expires_in: float | None = None


class _Refusal(msgspec.Struct):
    error: str = ""
    error_description: str = ""


class _Claims(msgspec.Struct):
    exp: float


@functools.lru_cache(maxsize=8)
def provider_of(oauth: OAuth) -> TokenProvider:
    """Return the provider of these settings, always the same: its tokens are shared.

    Raises ``UsageError`` when the files of its authorities cannot be used.
    """
    return TokenProvider(oauth)


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Gives tokens to new connections; keeps one until shortly before its end."""

    def __init__(self, oauth: OAuth) -> None:
        # Not at the top, 5 ms of all that nobody else needs; and not later than with the
        # certificates, when its files may be out of reach.
        import http.client  # noqa: F401, PLC0415

        self._oauth = oauth
        self._url = urlsplit(oauth.token_url)
        secure = self._url.scheme == "https"
        self._context = context_of_authorities(oauth.ca, "https.ca.location") if secure else None
        self._token = ""
        # On the monotonic clock.
        self._replace_after = self._end = 0.0

    async def token(self) -> str:
        """Return a token that is valid; raises ``TokenError``."""
        if time.monotonic() < self._replace_after:
            return self._token
        try:
            answer = await self._fetched()
        except TokenError:
            if time.monotonic() < self._end:
                return self._token
            raise
        life = life_of(answer)
        now = time.monotonic()
        self._token, self._end = answer.access_token, now + life
        self._replace_after = now + life * _SHARE_OF_LIFE
        return self._token

    def extensions(self) -> Mapping[str, str]:
        """Return what the brokers get beside a token."""
        return self._oauth.extensions or {}

    async def _fetched(self) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return self.parsed(await self._post())
        except TimeoutError:
            raise self._error(f"no complete answer after {TIMEOUT_S:g} s") from None
        except (OSError, UnicodeError) as err:
            reason = getattr(err, "strerror", None) or str(err)
            raise self._error(f"cannot be used: {reason}") from err

    async def _post(self) -> bytes:
        """Send the request and return all of the answer, up to the end of the connection."""
        host, port = self._url.hostname, self._url.port or (443 if self._context else 80)
        reader, writer = await asyncio.open_connection(host, port, ssl=self._context)
        try:
            writer.write(self._request())
            received = bytearray()
            while part := await reader.read(1 << 16):
                received += part
                if len(received) > LARGEST_ANSWER:
                    raise self._error(f"its answer is larger than {LARGEST_ANSWER >> 10} KiB")
        finally:
            writer.transport.abort()
        return bytes(received)

    def _request(self) -> bytes:
        oauth, url = self._oauth, self._url
        form = {"grant_type": "client_credentials"}
        if oauth.scope:
            form["scope"] = oauth.scope
        body = urlencode(form)
        login = _login(oauth.client_id, revealed(oauth.client_secret))
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = (
            f"POST {target} HTTP/1.1",
            f"Host: {url.netloc}",
            f"Authorization: Basic {login}",
            "Content-Type: application/x-www-form-urlencoded",
            "Accept: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", body)).encode()

    def parsed(self, received: bytes) -> Answer:
        """Return the token of an HTTP answer; raises ``TokenError``."""
        from http import HTTPStatus  # noqa: PLC0415 - as above
        from http.client import HTTPException, HTTPResponse  # noqa: PLC0415 - as above

        answer = HTTPResponse(_Received(received))  # type: ignore[arg-type]
        try:
            answer.begin()
            body = answer.read()
        # OverflowError: a length beyond 63 bits.
        except (HTTPException, ValueError, OverflowError) as err:
            raise self._error("its answer is not HTTP, or cut short") from err
        if answer.status != HTTPStatus.OK:
            raise self._error(f"refused: HTTP {answer.status}{self._said(body)}")
        try:
            found = msgspec.json.decode(body, type=Answer, strict=False)
        except UNDECODABLE:
            # Without its cause, which may show a part of a token.
            raise self._error("its answer holds no access_token") from None
        if not _TOKEN.fullmatch(found.access_token):
            raise self._error("its access_token is not a bearer token")
        return found

    def _said(self, body: bytes) -> str:
        """Return the endpoint's own words for a refusal (RFC 6749, 5.2)."""
        try:
            refusal = msgspec.json.decode(body, type=_Refusal)
        except UNDECODABLE:
            return ""
        text = f" {refusal.error} {refusal.error_description}".rstrip()
        secret = self._oauth.client_secret.reveal()
        # Some endpoints repeat what they were sent.
        if any(each in text for each in (secret, _login(self._oauth.client_id, secret))):
            return ""
        return shown(text)

    def _error(self, text: str) -> TokenError:
        return TokenError(f"token endpoint {self._url.netloc}: {text}")


def _login(client_id: str, secret: str) -> str:
    return base64.b64encode(f"{client_id}:{secret}".encode()).decode()


class _Received:
    """An answer in memory, as ``HTTPResponse`` reads it from a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def life_of(answer: Answer) -> float:
    """Return the seconds that a token is valid; 0 when neither answer nor token says it."""
    life = answer.expires_in
    if life is None:
        life = _end_of(answer.access_token) - time.time()
    # Not a number is no time either.
    return min(life, _LONGEST_LIFE_S) if life > 0 else 0


def _end_of(token: str) -> float:
    """Return the end that a token of RFC 7519 names, in Unix seconds; 0 without one."""
    claims = token.partition(".")[2].partition(".")[0]
    try:
        padded = claims + "=" * (-len(claims) % 4)
        return msgspec.json.decode(base64.urlsafe_b64decode(padded), type=_Claims).exp
    except UNDECODABLE:
        return 0

"""Tokens for SASL OAUTHBEARER: kept while they are valid, and endpoints that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from broker.certificates import Authority
from broker.tokens import CLIENT_ID, CLIENT_SECRET, TokenEndpoint

from flowstream.errors import UsageError
from flowstream.kafka import oauth as tokens
from flowstream.kafka.oauth import TokenError, TokenProvider, provider_of
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import OAuth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TOKEN = b'{"access_token":"abc.def","expires_in":600}'


def account(url: str, **fields: Any) -> OAuth:
    return OAuth(url, CLIENT_ID, Secret(CLIENT_SECRET), **fields)


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def serving(*chunks: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve these parts of an answer, whatever is asked; without any it never answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"grant_type=client_credentials")
            for chunk in chunks:
                writer.write(chunk)
            if not chunks:
                await reader.read()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if context else 'http'}://localhost:{port}/token"


def refusal(*chunks: bytes) -> str:
    """What is said of an endpoint that answers so, after "token endpoint HOST:PORT: "."""

    async def ask() -> str:
        async with serving(*chunks) as url:
            with pytest.raises(TokenError) as caught:
                await TokenProvider(account(url)).token()
            text = str(caught.value)
            assert text.startswith(f"TokenError: token endpoint {url[7:-6]}: "), text
            assert CLIENT_SECRET not in text
            return text.split(": ", 2)[2]

    return asyncio.run(ask())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_token_is_kept_for_four_fifths_of_its_life(run: Callable[..., Any], monkeypatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now)
    with TokenEndpoint() as endpoint:
        settings = account(endpoint.url, scope="kafka.write", extensions={"logicalCluster": "a"})
        provider = provider_of(settings)
        assert provider_of(settings) is provider
        assert provider.extensions() == {"logicalCluster": "a"}
        first = run(provider.token())
        now += 0.79 * endpoint.lifetime_s
        assert run(provider.token()) == first
        form = {"grant_type": ["client_credentials"], "scope": ["kafka.write"]}
        assert endpoint.requests == [form]
        now += 0.02 * endpoint.lifetime_s
        run(provider.token())
        assert endpoint.requests == [form, form]
        url, life = endpoint.url, endpoint.lifetime_s
    # The endpoint is away: the token lasts to its end.
    now += 0.99 * life
    run(provider.token())
    now += 0.02 * life
    with pytest.raises(TokenError, match="cannot be used: "):
        run(provider.token())
    assert url


def test_a_wrong_secret() -> None:
    with TokenEndpoint() as endpoint:
        provider = TokenProvider(OAuth(endpoint.url, CLIENT_ID, Secret("wrong")))
        with pytest.raises(TokenError, match=r": refused: HTTP 401 invalid_client$"):
            asyncio.run(provider.token())


@pytest.mark.parametrize(
    ("body", "life"),
    [
        (TOKEN, 600),
        (b'{"access_token":"a","expires_in":"3600"}', 3600),
        (b'{"access_token":"a","expires_in":0}', 0),
        (b'{"access_token":"a","expires_in":-5}', 0),
        (b'{"access_token":"a","expires_in":1e300}', 86_400),
        (b'{"access_token":"a"}', 0),
        (b'{"access_token":"a.aa.c"}', 0),
        # {"exp": 2^53}
        (b'{"access_token":"a.eyJleHAiOiA5MDA3MTk5MjU0NzQwOTkyfQ.c"}', 86_400),
        # {"exp": 1}
        (b'{"access_token":"a.eyJleHAiOiAxfQ.c"}', 0),
    ],
)
def test_the_life_of_a_token(body: bytes, life: float) -> None:
    provider = TokenProvider(account("http://localhost/"))
    assert tokens.life_of(provider.parsed(answer(body))) == life


def test_endpoints_that_misbehave() -> None:
    assert refusal(answer(b"", "301 Moved\r\nLocation: http://elsewhere/")) == "refused: HTTP 301"
    assert refusal(answer(b"[" * 50_000, "500 Oops")) == "refused: HTTP 500"
    echo = f'{{"error":"no: {CLIENT_SECRET}"}}'.encode()
    assert refusal(answer(echo, "400 No")) == "refused: HTTP 400"
    login = b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    echo = f'{{"error":"no","error_description":"Authorization: Basic {login}"}}'.encode()
    assert refusal(answer(echo, "400 No")) == "refused: HTTP 400"
    lines = b'{"error":"a\\nb","error_description":"\\u001b[31m"}'
    assert refusal(answer(lines, "400 No")) == r"refused: HTTP 400 a\nb \x1b[31m"
    long = b'{"error":"' + b"x" * 5_000 + b'"}'
    assert len(refusal(answer(long, "400 No"))) < 500
    for body in (b"", b"{}", b"[" * 50_000, b'{"access_token":7}', b'{"access_token":null}'):
        assert refusal(answer(body)) == "its answer holds no access_token"
    for token in ("", "a b", "a\\u0001auth=x", "\\u00e9"):
        body = f'{{"access_token":"{token}"}}'.encode()
        assert refusal(answer(body)) == "its access_token is not a bearer token"
    assert refusal(b"SSH-2.0-OpenSSH_9.2\r\n") == "its answer is not HTTP, or cut short"
    assert refusal(answer(TOKEN)[:-5]) == "its answer is not HTTP, or cut short"
    assert refusal(*[b"x" * 65_536] * 64) == "its answer is larger than 256 KiB"


def test_an_endpoint_that_never_answers(monkeypatch) -> None:
    monkeypatch.setattr(tokens, "TIMEOUT_S", 0.3)
    assert refusal() == "no complete answer after 0.3 s"


def test_the_endpoint_is_verified(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.issue("server").bundle)

    async def ask(ca: Path) -> str:
        async with serving(answer(TOKEN), context=server) as url:
            return await TokenProvider(account(url, ca=ca)).token()

    assert uvloop.run(ask(authority.certificate)) == "abc.def"
    with pytest.raises(TokenError, match="certificate verify failed"):
        uvloop.run(ask(other.certificate))
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=f"^https.ca.location: {missing}: cannot be read: "):
        TokenProvider(account("https://localhost/", ca=missing))

"""TLS contexts: files that cannot be used, and files that change between two connections."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from broker.certificates import Authority
from structlog.testing import capture_logs

from flowstream.errors import UsageError
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import Tls
from flowstream.kafka.tls import context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(files: Path) -> Authority:
    return Authority(files, "authority")


def refusal(**fields: Any) -> str:
    with pytest.raises(UsageError) as caught:
        context(Tls(**fields))
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_a_context_is_made_once(authority: Authority) -> None:
    tls = Tls(ca=authority.certificate)
    assert context(tls) is context(tls)


def test_files_that_cannot_be_used_are_named(authority: Authority, files: Path) -> None:
    client, other = authority.issue("client"), authority.issue("other")
    locked = authority.issue("locked", password=PASSWORD)
    empty = files / "empty"
    empty.touch()
    damaged = files / "damaged"
    damaged.write_bytes(authority.certificate.read_bytes().replace(b"MII", b"!!!"))
    ca, missing = authority.certificate, files / "missing"
    assert refusal(ca=missing) == (
        f"ssl.ca.location: {missing}: cannot be read: No such file or directory"
    )
    assert refusal(ca=empty) == f"ssl.ca.location: {empty}: holds no certificate in PEM"
    assert refusal(ca=damaged).startswith(f"ssl.ca.location: {damaged}: ")
    assert refusal(ca=ca, certificate=client.key, key=client.key) == (
        f"ssl.certificate.location: {client.key}: holds no certificate in PEM"
    )
    assert refusal(ca=ca, certificate=client.certificate) == (
        f"ssl.certificate.location: {client.certificate}: holds no private key in PEM"
    )
    assert refusal(ca=ca, certificate=client.certificate, key=other.key) == (
        f"ssl.key.location: {other.key}: is not the key of {client.certificate}"
    )
    assert refusal(ca=ca, certificate=locked.certificate, key=locked.key) == (
        f"ssl.key.password: is missing, and {locked.key} is encrypted"
    )
    for wrong in ("wrong", "x" * 5000):
        assert refusal(
            ca=ca, certificate=locked.certificate, key=locked.key, key_password=Secret(wrong)
        ) == (f"ssl.key.password: does not decrypt {locked.key}")
    context(Tls(ca, locked.certificate, locked.key, Secret(PASSWORD)))
    context(Tls(ca, client.bundle))


@asynccontextmanager
async def server(authority: Authority) -> AsyncIterator[tuple[int, list[str]]]:
    """Serve TLS to clients with a certificate; yields port and the names that they showed."""
    identity = authority.issue("server")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(identity.bundle)
    made.load_verify_locations(authority.certificate)
    made.verify_mode = ssl.CERT_REQUIRED
    names: list[str] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        names.append(dict(pair for (pair,) in certificate["subject"])["commonName"])
        writer.write(b"!")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=made) as serving:
        yield serving.sockets[0].getsockname()[1], names


async def connect(port: int, tls: Tls, name: str = "localhost") -> bytes:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(tls), server_hostname=name
        )
        content = await reader.read()
        writer.close()
        return content


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_new_connection_uses_the_files_as_they_are(authority, tmp_path, run) -> None:
    certificate, key, password = (tmp_path / name for name in ("crt", "key", "password"))

    def install(name: str, secret: str = "") -> None:
        """Replace the files one by one, by renaming, as tools for certificates do."""
        issued = authority.issue(name, password=secret)
        password.write_text(secret or "unused")
        for new, place in ((issued.certificate, certificate), (issued.key, key)):
            shutil.copy(new, tmp_path / "new")
            (tmp_path / "new").rename(place)

    async def connections() -> list[str]:
        async with server(authority) as (port, names):
            assert await connect(port, tls) == b"!"
            assert await connect(port, tls) == b"!"
            install("second", "password of the second")
            assert await connect(port, tls) == b"!"
            # Half of a change: the key is not that of the certificate so far.
            shutil.copy(authority.issue("third").certificate, certificate)
            assert await connect(port, tls) == b"!"
            assert await connect(port, tls) == b"!"
            install("third")
            assert await connect(port, tls) == b"!"
            for path in (certificate, key, password):
                path.unlink()
            assert await connect(port, tls) == b"!"
            return names

    install("first")
    tls = Tls(authority.certificate, certificate, key, Secret.of_file(password))
    with capture_logs() as logs:
        names = run(connections())
    assert names == ["first", "first", "second", "second", "second", "third", "third"]
    events = [entry["event"] for entry in logs]
    assert events.count("kafka_credentials_not_reloaded") == 1
    # The password's file and the others, for the second; the third one's key is not encrypted.
    assert events.count("kafka_credentials_reloaded") == 3
    assert "password of" not in str(logs)


def test_an_authority_may_be_added(authority, tmp_path) -> None:
    """A bundle with the new authority, before the brokers' certificates change."""
    first = Authority(tmp_path, "first")
    ca, client = tmp_path / "ca", authority.issue("client")
    shutil.copy(first.certificate, ca)
    tls = Tls(ca, client.certificate, client.key)

    async def connections() -> None:
        async with server(authority) as (port, _):
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(port, tls)
            ca.write_bytes(first.certificate.read_bytes() + authority.certificate.read_bytes())
            assert await connect(port, tls) == b"!"

    with capture_logs():
        asyncio.run(connections())


@pytest.mark.parametrize("check", [True, False])
def test_the_host_is_checked_unless_that_is_off(authority, check) -> None:
    client = authority.issue("client")
    tls = Tls(authority.certificate, client.certificate, client.key, check_host=check)

    async def connection() -> bytes:
        async with server(authority) as (port, _):
            return await connect(port, tls, "another.example")

    if check:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            asyncio.run(connection())
    else:
        assert asyncio.run(connection()) == b"!"

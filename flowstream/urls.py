"""URLs of sinks and sources."""

from __future__ import annotations

import os
import re
import reprlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from flowstream.errors import UsageError

KAFKA_FORM: Final = "kafka://HOST:PORT[,HOST:PORT...]"
SINK_FORMS: Final = f"{KAFKA_FORM}, file:DIR or stdout:"
ARCHIVE_SUFFIX: Final = ".fsrec"
"""End of the name of a recording in one file.

Most .gitignore files name logs, and many name archives; none names this suffix.
"""
SOURCE_FORMS: Final = f"{KAFKA_FORM}, file:DIR, DIR or FILE{ARCHIVE_SUFFIX}"
LISTEN_FORMS: Final = "127.0.0.1:PORT, [::1]:PORT, :PORT for all addresses, or unix:PATH"
REGISTRY_FORMS: Final = "http://HOST:PORT or https://HOST:PORT"

# A name, an IPv4 address or an IPv6 address in brackets, then the port.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):([0-9]{1,5})")
_ADDRESSES = re.compile(rf"(?!file:|stdout:){_ADDRESS.pattern}(?:,{_ADDRESS.pattern})*")
_REGISTRY_PLACE = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,253})|\[(?P<ipv6>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%\w]*)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_SOCKET_PATH_MOST: Final = 107
_VISIBLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class KafkaUrl:
    """A Kafka cluster; ``addresses`` are ``HOST:PORT``, at least one."""

    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return "kafka://" + ",".join(self.addresses)


@dataclass(frozen=True, slots=True)
class DirectoryUrl:
    """A directory of Kafka log segments."""

    path: Path

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class StdoutUrl:
    """Standard output, one JSON line per record."""

    def __str__(self) -> str:
        return "stdout:"


@dataclass(frozen=True, slots=True)
class RegistryUrl:
    """A schema registry. ``login`` is USER:PASSWORD, never shown."""

    secure: bool
    host: str
    port: int
    path: str
    login: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme, usual = ("https", 443) if self.secure else ("http", 80)
        port = "" if self.port == usual else f":{self.port}"
        return f"{scheme}://{host}{port}{self.path}"


@dataclass(frozen=True, slots=True)
class TcpListen:
    """An address of this host to listen on; ``host`` is None for all of them."""

    host: IPv4Address | IPv6Address | None
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else self.host or ""
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A UNIX socket to listen on."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


def without_secret(url: str) -> str:
    """Return ``url`` without user and password, for messages."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def parse_url(url: str, forms: str = SINK_FORMS) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """Parse a sink's URL. Raises ``UsageError`` with the mistake and the valid ``forms``."""
    if (shown := without_secret(url)) != url:
        raise UsageError(f"{shown!r}: user and password in the URL are not supported")
    if _ADDRESSES.fullmatch(url):
        raise UsageError(
            f"{url!r} has no scheme; use kafka://{url}, or file:{url} for a directory"
        )
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise UsageError(f"{url!r} has no scheme; use {forms}")
    match scheme:
        case "kafka":
            return _parse_kafka(url, rest)
        case "file":
            return DirectoryUrl(_parse_path(url, rest))
        case "stdout":
            if rest.strip("/"):
                raise UsageError(f"{url!r}: stdout: takes nothing after the colon")
            return StdoutUrl()
    raise UsageError(f"{url!r}: unknown scheme {scheme!r}; use {forms}")


def parse_url_or_directory(text: str) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """Parse a source's URL; text without a known scheme or "://" is the name of a directory.

    HOST:PORT is taken for a cluster without its scheme: ``UsageError`` names both forms.
    """
    has_scheme = text.partition(":")[0] in ("kafka", "file", "stdout") or "://" in text
    if has_scheme or _ADDRESSES.fullmatch(text):
        return parse_url(text, SOURCE_FORMS)
    return parse_url(f"file:{text}")


def parse_registry(url: str) -> RegistryUrl:
    """Parse the URL of a schema registry. Raises ``UsageError``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    login, _, place = parts.netloc.rpartition("@")
    secure = parts.scheme == "https"
    # Python's versions differ in what they take for a host.
    match = _REGISTRY_PLACE.fullmatch(place)
    port = int((match and match["port"]) or (443 if secure else 80))
    if (
        match is None
        or parts.scheme not in ("http", "https")
        or not 0 < port < 65536
        or not _VISIBLE.fullmatch(url)
        or parts.query
        or parts.fragment
    ):
        # A URL with a mistake may have its password anywhere.
        shown = "the URL" if "@" in url else reprlib.repr(url)
        raise UsageError(f"registry: {shown} is not allowed; it takes {REGISTRY_FORMS}")
    host = match["name"] or match["ipv6"]
    return RegistryUrl(secure, host, port, parts.path.rstrip("/"), unquote_to_bytes(login))


def parse_listen(text: str) -> TcpListen | UnixListen:
    """Parse an address to listen on. Raises ``UsageError``."""
    scheme, colon, path = text.partition(":")
    if scheme == "unix" and colon:
        return UnixListen(Path(_socket_path(path)))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} is not allowed; it takes {LISTEN_FORMS}")
    return TcpListen(_listen_host(text, host) if host else None, int(port))


def _listen_host(text: str, host: str) -> IPv4Address | IPv6Address:
    try:
        if host.startswith("[") and host.endswith("]"):
            return IPv6Address(host[1:-1])
        return IPv4Address(host)
    except ValueError:
        raise UsageError(
            f"{text!r}: {host!r} is not an IPv4 address, nor an IPv6 address in brackets; "
            f"it takes {LISTEN_FORMS}"
        ) from None


def _socket_path(path: str) -> str:
    # sun_path has 108 octets with the NUL (unix(7)).
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _SOCKET_PATH_MOST:
        raise UsageError(
            f"'unix:{path}' is not allowed; it takes unix: and an absolute path of at most "
            f"{_SOCKET_PATH_MOST} octets"
        )
    return path


def _parse_kafka(url: str, rest: str) -> KafkaUrl:
    if not rest.startswith("//"):
        raise UsageError(f"{url!r}: use {KAFKA_FORM}")
    addresses = tuple(rest[2:].removesuffix("/").split(","))
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            what = f"{address!r} is not HOST:PORT" if address else "an address is missing"
            raise UsageError(f"{url!r}: {what}; Kafka's usual port is 9092")
        if not _is_name(match[1]):
            raise UsageError(f"{url!r}: {match[1]!r} is not a valid host name")
        if not 0 < int(match[2]) < 65536:
            raise UsageError(f"{url!r}: port {match[2]} is out of range (1 to 65535)")
    return KafkaUrl(addresses)


def _is_name(host: str) -> bool:
    """Whether the name can be looked up (RFC 1035: labels of 1 to 63 octets)."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _parse_path(url: str, rest: str) -> Path:
    # file:DIR and file:///DIR are usual; in file://DIR, DIR would be a host.
    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if not path or path.startswith("//"):
        raise UsageError(f"{url!r}: use file:DIR, such as file:recording")
    if "\0" in path:
        raise UsageError(f"{url!r}: a path cannot contain a NUL byte")
    return Path(path)

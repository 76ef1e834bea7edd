"""URLs of sinks and sources."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from flowstream.errors import UsageError

KAFKA_FORM: Final = "kafka://HOST:PORT[,HOST:PORT...]"
SINK_FORMS: Final = f"{KAFKA_FORM}, file:DIR or stdout:"
SOURCE_FORMS: Final = f"{KAFKA_FORM}, file:DIR, DIR or FILE.fsrec"
REGISTRY_FORMS: Final = "http://HOST:PORT or https://HOST:PORT"

# A name, an IPv4 address or an IPv6 address in brackets, then the port.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):([0-9]{1,5})")
_ADDRESSES = re.compile(rf"(?!file:|stdout:){_ADDRESS.pattern}(?:,{_ADDRESS.pattern})*")
_REGISTRY_PLACE = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,253})|\[(?P<ipv6>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%\w]*)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
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


def without_secret(url: str) -> str:
    """Return ``url`` without user and password, for messages."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def parse_url(url: str) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """Parse a sink's URL. Raises ``UsageError`` with the mistake and the valid forms."""
    if (shown := without_secret(url)) != url:
        raise UsageError(f"{shown!r}: user and password in the URL are not supported")
    if _ADDRESSES.fullmatch(url):
        raise UsageError(
            f"{url!r} has no scheme; use kafka://{url}, or file:{url} for a directory"
        )
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise UsageError(f"{url!r} has no scheme; use {SINK_FORMS}")
    match scheme:
        case "kafka":
            return _parse_kafka(url, rest)
        case "file":
            return DirectoryUrl(_parse_path(url, rest))
        case "stdout":
            if rest.strip("/"):
                raise UsageError(f"{url!r}: stdout: takes nothing after the colon")
            return StdoutUrl()
    raise UsageError(f"{url!r}: unknown scheme {scheme!r}; use {SINK_FORMS}")


def parse_url_or_directory(text: str) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """Parse a source's URL; text without a known scheme or "://" is the name of a directory.

    HOST:PORT is taken for a cluster without its scheme: ``UsageError`` names both forms.
    """
    has_scheme = text.partition(":")[0] in ("kafka", "file", "stdout") or "://" in text
    if has_scheme or _ADDRESSES.fullmatch(text):
        return parse_url(text)
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

"""Where records are published to and read back from, as the user names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flowstream.errors import UsageError

_FORMS = "kafka://HOST:PORT[,HOST:PORT...], file:DIRECTORY or stdout:"
# A name, an IPv4 address or an IPv6 address in brackets, then the port.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):([0-9]{1,5})")


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


def without_secret(url: str) -> str:
    """Return ``url`` without the user and password that may stand in it, to be shown."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def parse_url(url: str) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """Return what ``url`` names; ``UsageError`` says what is wrong and which forms there are."""
    if (shown := without_secret(url)) != url:
        raise UsageError(f"{shown!r}: a user and password in it are not supported")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise UsageError(f"{url!r} has no scheme; use {_FORMS}")
    match scheme:
        case "kafka":
            return _parse_kafka(url, rest)
        case "file":
            return DirectoryUrl(_parse_path(url, rest))
        case "stdout":
            if rest.strip("/"):
                raise UsageError(f"{url!r}: stdout: takes nothing after the colon")
            return StdoutUrl()
    raise UsageError(f"{url!r}: unknown scheme {scheme!r}; use {_FORMS}")


def parse_url_or_directory(text: str) -> KafkaUrl | DirectoryUrl | StdoutUrl:
    """As ``parse_url``; without one of its schemes it is the name of a directory."""
    has_scheme = text.partition(":")[0] in ("kafka", "file", "stdout")
    return parse_url(text if has_scheme else f"file:{text}")


def _parse_kafka(url: str, rest: str) -> KafkaUrl:
    if not rest.startswith("//"):
        raise UsageError(f"{url!r}: use kafka://HOST:PORT[,HOST:PORT...]")
    addresses = tuple(rest[2:].removesuffix("/").split(","))
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            what = f"{address!r} is not HOST:PORT" if address else "an address is missing"
            raise UsageError(f"{url!r}: {what}; Kafka's usual port is 9092")
        if not _is_name(match[1]):
            raise UsageError(f"{url!r}: {match[1]!r} cannot be the name of a host")
        if not 0 < int(match[2]) < 65536:
            raise UsageError(f"{url!r}: port {match[2]} is not within 1 to 65535")
    return KafkaUrl(addresses)


def _is_name(host: str) -> bool:
    """Whether a look-up of the name is possible at all (RFC 1035: labels of 1 to 63 octets)."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _parse_path(url: str, rest: str) -> Path:
    # file:DIR and file:///DIR are usual; file://DIR would name a host, and does not here.
    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if not path or path.startswith("//"):
        raise UsageError(f"{url!r}: use file:DIRECTORY, such as file:recording")
    if "\0" in path:
        raise UsageError(f"{url!r}: a path cannot contain a NUL byte")
    return Path(path)

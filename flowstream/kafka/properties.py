"""Properties of Kafka clients by the names that librdkafka, kcat and Java have for them.

``PROPERTIES`` is the one table of them: the [kafka] table of TOML files, ``-X KEY=VALUE``,
the documents and all errors come from it. Every mistake is a ``UsageError`` that names the
property; the value of a secret is in no text.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from flowstream.errors import UsageError
from flowstream.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_TEXTS: Final = reprlib.Repr()
_TEXTS.maxstring = 100
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Property:
    """One property: name, the values it takes, its meaning.

    ``parse`` checks text; its ValueError says nothing that ``allowed`` does not.
    """

    name: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any]
    is_secret: bool = False


def _choice(*values: str) -> Callable[[str], str]:
    by_name = {value.lower(): value for value in values}

    def parse(text: str) -> str:
        try:
            return by_name[text.lower()]
        except KeyError:
            raise ValueError from None

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse


def _text(text: str) -> str:
    if not _PRINTABLE.fullmatch(text) or not _is_utf8(text):
        raise ValueError
    return text


def _is_utf8(text: str) -> bool:
    """Say whether it has no octets of an argument or variable that are none."""
    return not re.search(r"[\ud800-\udfff]", text)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _secret(text: str) -> str:
    if not text or "\0" in text or "\n" in text or not _is_utf8(text):
        raise ValueError
    return text


def _check_host(text: str) -> bool:
    # Java's clients have the empty text for "none".
    return _choice("https", "none", "")(text) == "https"


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    port = parts.port  # ValueError for one that is none
    if not (secure and parts.hostname and port != 0) or "@" in parts.netloc:
        raise ValueError
    if parts.fragment or not re.fullmatch(r"[!-~]+", text):
        raise ValueError
    return text


def _extensions(text: str) -> dict[str, str]:
    """Parse NAME=VALUE,…; names are letters and values printable ASCII (RFC 7628, 3.1)."""
    pairs = [re.fullmatch(r"([A-Za-z]+)=([ -~]+)", part) for part in text.split(",")]
    if not all(pairs) or any(pair[1] == "auth" for pair in pairs if pair):
        raise ValueError
    return {pair[1]: pair[2] for pair in pairs if pair}


_TEXT: Final = "1 to 255 printable characters"
_FILE: Final = "the name of a file"
_REFERENCES: Final = "text, ${VARIABLE} or file:PATH"


def _milliseconds(name: str, least: int, most: int, meaning: str) -> Property:
    allowed = f"a whole number of milliseconds from {least} to {most}"
    return Property(name, allowed, meaning, _number(least, most))


def _choices(name: str, values: tuple[str, ...], meaning: str) -> Property:
    allowed = f"{', '.join(values[:-1])} or {values[-1]}"
    return Property(name, allowed, meaning, _choice(*values))


def _secret_text(name: str, meaning: str) -> Property:
    return Property(name, _REFERENCES, meaning, _secret, is_secret=True)


_TABLE: Final = (
    _choices(
        "security.protocol",
        ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "SSL is TLS, SASL_SSL is TLS and a login; default PLAINTEXT",
    ),
    Property(
        "ssl.ca.location",
        "the name of a file or directory",
        "CA certificates that verify the brokers, in PEM; default those of the host",
        _path,
    ),
    Property(
        "ssl.certificate.location",
        _FILE,
        "the client's certificate and the intermediate ones, in PEM",
        _path,
    ),
    Property(
        "ssl.key.location",
        _FILE,
        "the client's private key, in PEM; default the file of its certificate",
        _path,
    ),
    _secret_text("ssl.key.password", "password of an encrypted private key"),
    Property(
        "ssl.endpoint.identification.algorithm",
        "https or none",
        "https: a broker's certificate must name the host connected to; default https",
        _check_host,
    ),
    _choices(
        "sasl.mechanism",
        ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"),
        "how to log in; required by SASL_PLAINTEXT and SASL_SSL",
    ),
    Property("sasl.username", _TEXT, "user of PLAIN and SCRAM", _text),
    _secret_text("sasl.password", "password of PLAIN and SCRAM"),
    Property(
        "sasl.oauthbearer.token.endpoint.url",
        "https://HOST[:PORT]/PATH, or http:// on this host",
        "issues the tokens of OAUTHBEARER, by client credentials",
        _endpoint,
    ),
    Property("sasl.oauthbearer.client.id", _TEXT, "the client's id at the token endpoint", _text),
    _secret_text("sasl.oauthbearer.client.secret", "the client's secret at the token endpoint"),
    Property("sasl.oauthbearer.scope", _TEXT, "scope of the tokens", _text),
    Property(
        "sasl.oauthbearer.extensions",
        "NAME=VALUE[,NAME=VALUE...]",
        "sent to the brokers with a token, such as logicalCluster=lkc-1",
        _extensions,
    ),
    Property(
        "https.ca.location",
        "the name of a file or directory",
        "CA certificates that verify the token endpoint, in PEM; default those of the host",
        _path,
    ),
    Property(
        "client.id",
        _TEXT,
        "name of the client in the brokers' logs and quotas; default flowstream",
        _text,
    ),
    Property("client.rack", _TEXT, "where reading: prefer replicas of this rack", _text),
    _choices(
        "compression.type",
        ("none", "gzip", "snappy", "lz4", "zstd"),
        "where publishing: codec of the batches; default zstd",
    ),
    Property(
        "batch.size",
        "a whole number of octets from 1024 to 8388608",
        "where publishing: largest batch before compression; default 524288",
        _number(1 << 10, 8 << 20),
    ),
    _milliseconds(
        "request.timeout.ms", 1_000, 300_000, "longest wait for an answer; default 10000"
    ),
    _milliseconds(
        "delivery.timeout.ms",
        1_000,
        86_400_000,
        "where publishing: after this time a record is given up; default 30000",
    ),
    _milliseconds(
        "metadata.max.age.ms",
        1_000,
        86_400_000,
        "time between updates of topics and brokers; default 60000, where reading 10000",
    ),
)

PROPERTIES: Final = {each.name: each for each in _TABLE}
"""All properties, by name, in the order of the documents."""

_BY_URL: Final = "the addresses are part of the URL: kafka://HOST:PORT[,HOST:PORT...]"
_PEM_ONLY: Final = "only PEM files are read; use ssl.ca.location, ssl.certificate.location"
_ALWAYS_IDEMPOTENT: Final = "publishing always is idempotent, with acks=all"
_ADAPTIVE: Final = (
    "not needed: a batch fills while the one before it is under way, and waits for nothing else"
)
_UNSUPPORTED: Final = {
    "bootstrap.servers": _BY_URL,
    "metadata.broker.list": _BY_URL,
    "linger.ms": _ADAPTIVE,
    "queue.buffering.max.ms": _ADAPTIVE,
    "acks": _ALWAYS_IDEMPOTENT,
    "request.required.acks": _ALWAYS_IDEMPOTENT,
    "enable.idempotence": _ALWAYS_IDEMPOTENT,
    "enable.ssl.certificate.verification": "brokers are always verified; "
    "name their authority by ssl.ca.location",
    "ssl.keystore.location": _PEM_ONLY,
    "ssl.truststore.location": _PEM_ONLY,
    "sasl.jaas.config": "use sasl.username and sasl.password",
    "sasl.oauthbearer.method": "leave it out: tokens come from "
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.kerberos.service.name": "Kerberos is not supported; use another sasl.mechanism",
    "group.id": "no consumer group is used; leave it out",
    "debug": "use --log-level debug of run",
}
"""Known properties that have no place here, and why."""


def property_of(name: str, where: str) -> Property:
    """Return the property of this name; ``UsageError`` names the nearest one instead."""
    found = PROPERTIES.get(name)
    if found is not None:
        return found
    said = f"{where}: unsupported property {_TEXTS.repr(name)}"
    if why := _UNSUPPORTED.get(name):
        raise UsageError(f"{said}: {why}")
    near = did_you_mean(name, PROPERTIES)
    raise UsageError(said + (near or "; flowstream audit -X list prints all of them"))

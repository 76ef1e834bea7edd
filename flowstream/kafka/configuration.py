"""From properties, as a user gave them, to the settings of a cluster's clients.

A value may name variables of the environment, ``${NAME}``, and a secret the file that
holds it, ``file:PATH``. Raises ``UsageError`` for unknown properties, values that are not
allowed, and properties that contradict each other.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowstream.errors import UsageError
from flowstream.files import shown
from flowstream.kafka.properties import PROPERTIES, Property, property_of
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import ClientSettings, OAuth, Sasl, Tls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE: Final = "file:"
_OAUTH: Final = "sasl.oauthbearer."
_DEEPEST: Final = 8
"""Parts of a property's name."""


class Given(NamedTuple):
    """A checked value and where it was given, for errors."""

    value: Any
    where: str


def of_properties(properties: Mapping[str, object]) -> ClientSettings:
    """Return the settings of properties by name, for a program's own use."""
    return client_settings(from_table(properties, "properties"))


def from_table(table: object, where: str, file: Path | None = None) -> dict[str, Given]:
    """Check a [kafka] table, whose keys may be dotted or quoted; ``file`` holds it."""
    found: dict[str, Given] = {}
    for name, value in _flat(table, where):
        each = property_of(name, where)
        place = f"{where}.{name}"
        if name in found:
            raise UsageError(f"{place}: is given twice, with its name in quotes and without")
        if isinstance(value, int) and not isinstance(value, bool) and not each.is_secret:
            value = str(value)  # noqa: PLW2901 - one parser for both
        if not isinstance(value, str):
            raise UsageError(f"{place}: takes {each.allowed}, as text in quotes")
        found[name] = Given(_parsed(each, value, place, file), place)
    return found


def from_arguments(texts: Sequence[str]) -> dict[str, Given]:
    """Check the KEY=VALUE of a command line; a later one replaces an earlier one.

    A secret must be a reference: every user can read the process list.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            # Whatever it is, it may be a secret.
            raise UsageError("-X: takes KEY=VALUE, such as security.protocol=SASL_SSL")
        each = property_of(name, "-X")
        where = f"-X {name}"
        is_reference = value.startswith(_FILE) or _VARIABLE.fullmatch(value)
        if each.is_secret and not is_reference:
            raise UsageError(
                f"{where}: every user can read it in the process list; use {name}=file:PATH, "
                f"'{name}=${{VARIABLE}}' in single quotes, or --kafka-config FILE"
            )
        found[name] = Given(_parsed(each, value, where, None), where)
    return found


def client_settings(given: Mapping[str, Given]) -> ClientSettings:
    """Return the settings that the properties add up to, for no cluster yet."""
    protocol = _value(given, "security.protocol", "PLAINTEXT")
    tls = _tls(given, protocol)
    sasl = _sasl(given, protocol)
    _refuse_without(
        given, "https.ca.location", "sasl.mechanism=OAUTHBEARER", bool(sasl and sasl.oauth)
    )
    default = ClientSettings()
    request_ms = _value(given, "request.timeout.ms", round(default.request_timeout * 1000))
    delivery_ms = _value(given, "delivery.timeout.ms")
    if delivery_ms is not None and delivery_ms < request_ms:
        raise UsageError(
            f"{given['delivery.timeout.ms'].where}: {delivery_ms} is less than "
            f"request.timeout.ms, {request_ms}: records would be given up before their answer"
        )
    age_ms = _value(given, "metadata.max.age.ms")
    return ClientSettings(
        client_id=_value(given, "client.id", default.client_id),
        request_timeout=request_ms / 1000,
        tls=tls,
        sasl=sasl,
        metadata_max_age=age_ms and age_ms / 1000,
        compression=_value(given, "compression.type", default.compression),
        batch_size=_value(given, "batch.size"),
        delivery_timeout=delivery_ms and delivery_ms / 1000,
        rack=_value(given, "client.rack", ""),
    )


def _flat(
    table: object, where: str, prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, object]]:
    """Yield names and values; TOML makes tables of tables from dotted keys."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: is not a table; write [kafka] and properties below it")
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and depth < _DEEPEST and name not in PROPERTIES:
            yield from _flat(value, where, f"{name}.", depth + 1)
        else:
            yield name, value


def _parsed(each: Property, text: str, where: str, file: Path | None) -> Any:
    resolved = _VARIABLE.sub(lambda match: _variable(match[1], where), text)
    if each.is_secret and resolved.startswith(_FILE):
        return _secret_of_file(resolved.removeprefix(_FILE), where)
    try:
        value = each.parse(resolved)
    except ValueError:
        # The value is not repeated: it may be a password in the wrong place.
        raise UsageError(f"{where}: the value is not allowed; it takes {each.allowed}") from None
    if not each.is_secret:
        return value
    return Secret(value, file if resolved == text else None)


def _variable(name: str, where: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(
            f"{where}: the environment has no variable {name}; export it "
            f"(sudo passes it on with --preserve-env={name})"
        )
    return value


def _secret_of_file(name: str, where: str) -> Secret:
    try:
        return Secret.of_file(Path(name))
    except OSError as err:
        raise UsageError(f"{where}: {shown(Path(name))}: cannot be read: {err.strerror}") from err
    except ValueError as err:
        raise UsageError(f"{where}: {err}") from None


def _value(given: Mapping[str, Given], name: str, default: Any = None) -> Any:
    return given[name].value if name in given else default


def _require(given: Mapping[str, Given], name: str, because: str) -> Any:
    if name not in given:
        raise UsageError(f"{because} requires {name}")
    return given[name].value


def _refuse_without(given: Mapping[str, Given], start: str, needed: str, is_present: bool) -> None:
    """Refuse properties that would have no effect."""
    if is_present:
        return
    for name, each in given.items():
        if name.startswith(start):
            raise UsageError(f"{each.where}: has no effect without {needed}")


def _tls(given: Mapping[str, Given], protocol: str) -> Tls | None:
    secure = protocol.endswith("SSL")
    _refuse_without(given, "ssl.", "security.protocol=SSL or SASL_SSL", secure)
    if not secure:
        return None
    certificate = _value(given, "ssl.certificate.location")
    _refuse_without(given, "ssl.key.", "ssl.certificate.location", certificate is not None)
    return Tls(
        ca=_value(given, "ssl.ca.location"),
        certificate=certificate,
        key=_value(given, "ssl.key.location"),
        key_password=_value(given, "ssl.key.password"),
        check_host=_value(given, "ssl.endpoint.identification.algorithm", True),
    )


def _sasl(given: Mapping[str, Given], protocol: str) -> Sasl | None:
    wanted = protocol.startswith("SASL")
    _refuse_without(given, "sasl.", "security.protocol=SASL_SSL or SASL_PLAINTEXT", wanted)
    if not wanted:
        return None
    because = f"{given['security.protocol'].where}: {protocol}"
    mechanism = _require(given, "sasl.mechanism", because)
    because = f"{given['sasl.mechanism'].where}: {mechanism}"
    if mechanism != "OAUTHBEARER":
        _refuse_without(given, _OAUTH, "sasl.mechanism=OAUTHBEARER", is_present=False)
        return Sasl(
            mechanism,
            username=_require(given, "sasl.username", because),
            password=_require(given, "sasl.password", because),
        )
    for name in ("sasl.username", "sasl.password"):
        _refuse_without(given, name, "sasl.mechanism=PLAIN or SCRAM", is_present=False)
    oauth = OAuth(
        token_url=_require(given, f"{_OAUTH}token.endpoint.url", because),
        client_id=_require(given, f"{_OAUTH}client.id", because),
        client_secret=_require(given, f"{_OAUTH}client.secret", because),
        scope=_value(given, f"{_OAUTH}scope", ""),
        extensions=_value(given, f"{_OAUTH}extensions"),
        ca=_value(given, "https.ca.location"),
    )
    return Sasl(mechanism, oauth=oauth)

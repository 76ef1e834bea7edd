"""Properties of Kafka clients, from the command line and TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowstream.config.toml import read_table
from flowstream.errors import UsageError
from flowstream.files import shown
from flowstream.kafka.configuration import client_settings, from_arguments, from_table
from flowstream.kafka.properties import PROPERTIES
from flowstream.urls import KafkaUrl, parse_url_or_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kafka.configuration import Given
    from flowstream.kafka.settings import ClientSettings

KAFKA_TABLE: Final = "kafka"
"""The key of the table in a TOML file."""


def properties_of(table: Mapping[str, Any], file: Path) -> dict[str, Given]:
    """Check the [kafka] table of a file's content, which need not have one."""
    where = f"{shown(file)}: {KAFKA_TABLE}"
    return from_table(table.get(KAFKA_TABLE, {}), where, file)


def client_of(
    url: str, given: Mapping[str, Any], table: Mapping[str, Given] | None = None
) -> ClientSettings:
    """Return the settings of the clients for ``url``, a sink or a source.

    ``given`` has the command line's ``properties``, texts KEY=VALUE, and ``kafka_config``,
    the name of a file. They take precedence in this order over ``table``. Raises
    ``UsageError``, also for properties that would have no effect on a recording.
    """
    found = dict(table or {})
    if given.get("kafka_config") is not None:
        found |= _of_file(Path(given["kafka_config"]))
    found |= from_arguments(given.get("properties") or ())
    if found and not isinstance(parse_url_or_directory(url), KafkaUrl):
        where = next(iter(found.values())).where
        raise UsageError(f"{where}: has no effect on {url}; leave it out or use kafka://HOST:PORT")
    return client_settings(found)


def listed() -> str:
    """Return a line for each property, with what it takes."""
    lines = (f"{each.name}\n    {each.meaning}; {each.allowed}\n" for each in PROPERTIES.values())
    return "".join(lines)


def _of_file(file: Path) -> dict[str, Given]:
    table = read_table(file)
    if KAFKA_TABLE not in table:
        raise UsageError(f"--kafka-config {shown(file)}: has no table [{KAFKA_TABLE}]")
    return properties_of(table, file)

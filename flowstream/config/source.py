"""Where a run's configuration comes from, to be read again while the run lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from flowstream.config.kafka import KAFKA_TABLE, client_of, properties_of
from flowstream.config.run import OPTIONS, RunConfig, merged, values_of
from flowstream.config.toml import read_table
from flowstream.errors import UsageError
from flowstream.files import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings

RELOADABLE: Final = (
    "interfaces",
    "interface_kinds",
    "sampling",
    "interval_s",
    "max_records",
    "counters_period_s",
    "log_level",
    "shutdown_timeout_s",
)
"""Fields of the options that may change while a run lasts."""


class Change(NamedTuple):
    """An option's value before and after."""

    old: Any
    new: Any


class Reload(NamedTuple):
    """A configuration that was read again, and how it differs from the one in force.

    ``config`` is the one in force with the new values of the options that may change;
    ``changes`` has these by name. ``needs_restart`` names the others that differ: their
    values may be secret. ``kafka`` stands for the properties of the Kafka clients.
    """

    config: RunConfig
    changes: dict[str, Change]
    needs_restart: tuple[str, ...]


class ConfigSource:
    """A command line and a configuration file; ``given`` is as for ``load``.

    ``config`` is what they said first. Raises ``UsageError``.
    """

    def __init__(self, given: Mapping[str, object], file: Path) -> None:
        self._given, self.file = given, file
        table = read_table(file)
        self._kafka = table.get(KAFKA_TABLE)
        self.config = self._config(table)

    def reload(self, current: RunConfig) -> Reload:
        """Read the file again, for a run with the configuration ``current``.

        It is checked as at the start. Only the file of ``--kafka-config``, and the files
        that properties name, are not read again while sink and properties are the same: the
        agent may not be allowed to. Raises ``UsageError``.
        """
        table = read_table(self.file)
        if not table:
            # A file that is written in place is empty for a moment, which is valid TOML.
            raise UsageError(f"{shown(self.file)}: has no option; replace it by a complete file")
        same_properties = table.get(KAFKA_TABLE) == self._kafka
        wanted = self._config(table, current if same_properties else None)
        config = msgspec.structs.replace(
            current, **{field: getattr(wanted, field) for field in RELOADABLE}
        )
        needs_restart = [*_differences(config, wanted)]
        if not same_properties:
            needs_restart.append(KAFKA_TABLE)
        return Reload(config, _differences(current, config), tuple(needs_restart))

    def _config(self, table: Mapping[str, Any], like: RunConfig | None = None) -> RunConfig:
        """Merge; the settings of Kafka clients are those of ``like`` if it has the same sink."""

        def client(sink: str) -> ClientSettings:
            if like is not None and sink == like.sink:
                return like.kafka
            return client_of(sink, self._given, properties_of(table, self.file))

        return merged(self._given, values_of(table, self.file), client)


def _differences(old: RunConfig, new: RunConfig) -> dict[str, Change]:
    """Return the options with other values, by name."""
    pairs = {
        option.name: Change(getattr(old, field), getattr(new, field))
        for field, option in OPTIONS.items()
    }
    return {name: change for name, change in pairs.items() if change.old != change.new}

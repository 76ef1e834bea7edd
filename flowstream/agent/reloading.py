"""Reads the configuration again when SIGHUP asks for it: all of it takes effect, or none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from flowstream import log as logs
from flowstream.errors import UsageError
from flowstream.files import open_regular, shown
from flowstream.host import unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowstream.config.run import RunConfig
    from flowstream.config.source import ConfigSource, Reload
    from flowstream.host.privileges import User
    from flowstream.host.service_manager import ServiceManager

ENDING: Final = "the run is ending"

log = structlog.get_logger()


@dataclass(slots=True)
class Reloads:
    """How readings of the configuration ended, and when that in force was read, Unix seconds.

    ``last_failed`` is for the last one, that of the start included.
    """

    results: Counter[str] = field(default_factory=lambda: Counter(success=0, failure=0))
    last_failed: bool = False
    configured_unix_s: float = field(default_factory=time.time)


class Reloading:
    """Serves requests to read the configuration again, of which ``config`` is the first.

    ``apply`` puts a configuration into force, all of it at once. Requests that come while
    the file is read make one more reading together. The service ``manager`` is told of each.
    """

    def __init__(
        self,
        source: ConfigSource,
        config: RunConfig,
        apply: Callable[[RunConfig], object],
        manager: ServiceManager,
    ) -> None:
        self._source, self._config, self._apply = source, config, apply
        self._manager = manager
        self.reloads = Reloads()
        self._requested = asyncio.Event()
        self._stopping = asyncio.Event()

    def request(self) -> None:
        """Let ``run`` read the configuration."""
        if self._stopping.is_set():
            self._failed(ENDING)
        self._requested.set()

    def stop(self) -> None:
        """Let ``run`` end; a configuration that is being read then is not put into force."""
        self._stopping.set()
        self._requested.set()

    async def run(self) -> None:
        """Serve requests, also those that came before, until ``stop``."""
        while await self._requested.wait() and not self._stopping.is_set():
            self._requested.clear()
            with self._manager.reloading():
                await self._reload()

    async def _reload(self) -> None:
        try:
            # The file system may take its time.
            read = await asyncio.to_thread(self._source.reload, self._config)
        except UsageError as err:
            self._failed(str(err), "nothing has changed: correct the file and send SIGHUP again")
        else:
            if self._stopping.is_set():
                self._failed(ENDING)
            else:
                self._put_into_force(read)

    def _failed(self, error: str, remedy: str = "nothing has changed") -> None:
        self.reloads.results["failure"] += 1
        self.reloads.last_failed = True
        log.error("reload_failed", error=error, remedy=remedy)

    def _put_into_force(self, read: Reload) -> None:
        before, self._config = self._config, read.config
        self._apply(read.config)
        self.reloads.results["success"] += 1
        self.reloads.last_failed = False
        self.reloads.configured_unix_s = time.time()
        if _level(read.config) < _level(before):
            logs.configure(read.config.log_level, read.config.log_format)
        if read.needs_restart:
            log.warning("reload_needs_restart", options=read.needs_restart)
        log.info("reloaded", changes={name: each._asdict() for name, each in read.changes.items()})
        # Only now, if that leaves messages out: those above are among them.
        logs.configure(read.config.log_level, read.config.log_format)


def _level(config: RunConfig) -> int:
    return logging.getLevelNamesMapping()[config.log_level.upper()]


def warn_if_unreadable(file: Path, user: User, name: str) -> None:
    """Log a warning if the agent's user, called ``name``, cannot read the configuration again."""
    if fault := unprivileged.call(user, lambda: _fault(file), str):
        log.warning(
            "reload_impossible",
            error=f"{shown(file)}: the user {name} cannot read it: {fault}",
            remedy=f"setfacl -m u:{name}:r {shown(file)}, and :x for the directories above",
        )


def _fault(file: Path) -> str:
    try:
        open_regular(file).close()
    except OSError as err:
        return err.strerror or "unknown error"
    return ""

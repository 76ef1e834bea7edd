"""Logs what the spool does: when it begins to fill, how it drains, what it loses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections import Counter

    from flowstream.spool.disk import Status

_INTERVAL_S: Final = 10.0

log = structlog.get_logger(__name__)


class Report:
    """Log lines of the spool; ``lost`` counts records by cause, and is cleared."""

    def __init__(self, lost: Counter[str]) -> None:
        self._lost = lost
        self._since: float | None = None
        self._drained = 0
        self._written = 0.0

    def found(self, records: int, octets: int, now: float) -> None:
        """Log what an earlier run left."""
        self._since = self._written = now
        log.info("spool_found", records=records, octets=octets)

    def left(self, status: Status) -> None:
        """Log what waits at the end of the run."""
        self._write_lost()
        if status.records:
            log.warning("spool_left", records=status.records, octets=status.spool.octets)

    def write(self, status: Status, drained: int, now: float) -> None:
        """Log beginning and end at once, progress every 10 s; ``drained`` since the start."""
        waits = {"records": status.records, "octets": status.spool.octets}
        if self._since is None and status.records:
            self._since, self._drained, self._written = now, drained, now
            log.warning("spooling", **waits)
        elif self._since is not None and not status.records:
            self._write_lost()
            after_s = round(now - self._since, 1)
            log.info("spool_drained", records=drained - self._drained, after_s=after_s)
            self._since = None
        elif self._since is not None and now - self._written >= _INTERVAL_S:
            self._written = now
            self._write_lost()
            age_s = round(time.time() - status.spool.oldest_ns / 1e9)
            log.info("spool_waiting", **waits, oldest_s=age_s, drained=drained - self._drained)

    def _write_lost(self) -> None:
        for cause, records in self._lost.items():
            log.warning("spool_records_lost", cause=cause, records=records)
        self._lost.clear()

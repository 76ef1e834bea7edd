"""Looks after the spool: its limits, its checkpoint and the counters of earlier runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowstream.encode import counters_batch
from flowstream.spool.disk import Status
from flowstream.spool.parcel import Parcel
from flowstream.spool.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.accounting.snapshot import Moment
    from flowstream.encode import Encoder
    from flowstream.spool.books import Books
    from flowstream.spool.disk import Disk
    from flowstream.spool.drain import Drain

PERIOD_S: Final = 1.0
"""How often the spool is made durable and its limits are kept while records wait."""
DISK_S: Final = 2.0
"""The least time that the disk gets at the end."""


class Keeper:
    """Makes durable what is in the spool, once a second while records wait there.

    ``encoder`` encodes amended counters records of earlier runs, ``partitions`` has the
    number of a topic.
    """

    def __init__(
        self,
        disk: Disk,
        books: Books,
        drain: Drain,
        *,
        encoder: Encoder,
        clock: Callable[[], Moment],
        partitions: Callable[[str], int],
    ) -> None:
        self._disk, self._books, self._drain = disk, books, drain
        self._encoder, self._clock, self._partitions = encoder, clock, partitions
        self.report = Report(books.lost)
        self.status = Status()
        # Records wait, or may.
        self._used = asyncio.Event()

    def wake(self) -> None:
        """Records were written, or counters of an earlier run are due."""
        self._used.set()

    async def run(self) -> None:
        """Look after the spool while records wait there, until cancelled."""
        while True:
            await self._used.wait()
            await asyncio.sleep(PERIOD_S)
            self._used.clear()
            await self._tidy()
            await self._save()
            self._post_amended()
            if self.status.records:
                self._used.set()
            self.report.write(self.status, self._drain.records, _now())

    async def secure(self, deadline: float, *, ended: bool) -> bool:
        """Make durable what is in the spool and in its books; say whether that succeeded."""
        try:
            async with asyncio.timeout(max(deadline - _now(), DISK_S)):
                await self._tidy()
                await self._save(ended=ended)
        except TimeoutError:
            return False
        return self._disk.durable

    async def _tidy(self) -> None:
        tidied = self._disk.tidy()
        # Also when nobody waits any more: what is gone is told once.
        tidied.add_done_callback(self._tidied)
        await asyncio.shield(tidied)

    def _tidied(self, tidied: asyncio.Future[Status]) -> None:
        if tidied.cancelled() or tidied.exception():
            return
        self.status = tidied.result()
        self._books.lose(self.status.gone)
        self._books.amend(self._clock(), self.status.spool)

    async def _save(self, *, ended: bool = False) -> None:
        runs, confirm = self._books.saved(self.status.epochs, ended=ended)
        self.status = await self._disk.save(runs)
        if self.status.saved:
            confirm()

    def _post_amended(self) -> None:
        """Spool counters records of earlier runs: the checkpoint has them by now."""
        for run, record in self._books.post():
            batch = counters_batch(record, self._encoder, run.topic, self._partitions(run.topic))
            self._disk.put_at_once(Parcel(batch, seq=record.seq))


def _now() -> float:
    return asyncio.get_running_loop().time()

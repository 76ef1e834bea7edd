"""Closes the runs before this one: publishes what they left, and their final counters.

An earlier run's maps are frozen once this run's programs have its links. What is in them
is published as the earlier run's records, by its numbers and in its ledger; what is in no
count then was in its agent's memory when that was killed. Its books are kept all the
while: whenever this agent is killed, the next one goes on with both runs.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.layouts.constants import EndReason
from flowstream.pipeline.publisher import RecordBatch
from flowstream.waiting import SETTLE_POLL_S, Pauses, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.ledgers import Ledgers
    from flowstream.chain.predecessor import Predecessor
    from flowstream.pipeline.publisher import Means, Publisher
    from flowstream.streams import Stream

_PAUSES_S: Final = (1.0, 30.0)
"""Between attempts to publish final counters: the first pause and the longest."""

log = structlog.get_logger()


class Predecessors:
    """Closes earlier runs beside the traffic of this one: a stage of ``Agent.run``."""

    def __init__(
        self,
        runs: Sequence[Predecessor],
        means: Means,
        ledgers: Ledgers,
        rhythm: Rhythm,
        on_fault: Callable[[Exception], object],
    ) -> None:
        self._runs, self._means, self._ledgers = list(runs), means, ledgers
        self._rhythm, self._on_fault = rhythm, on_fault
        self._stopping = asyncio.Event()
        for each in self._runs:
            each.books.on_fault = on_fault

    def wake(self) -> None:
        """Do nothing: ``run`` waits for its event."""

    def write_books(self) -> None:
        """Write the books of those that are not closed."""
        for each in self._runs:
            each.books.write()

    async def run(self, stopping: asyncio.Event) -> None:
        """Close the runs, the oldest first, until all are closed or ``stopping`` is set.

        Then the next run continues.
        """
        self._stopping = stopping
        if stopping.is_set():
            # A signal may have come before all links were taken over: the next run does so.
            return
        for each in self._runs:
            await asyncio.to_thread(each.freeze)
        for each in self._runs:
            await asyncio.to_thread(each.leftovers.freeze)
        finishing: list[asyncio.Task[None]] = []
        for each in [*self._runs]:
            publisher = self._means.publisher(each.run, each.prefix)
            if self._stopping.is_set() or (count := await self._empty(each, publisher)) is None:
                break
            # Beside the next one: a topic of a run may be forbidden for as long as it likes.
            finishing.append(asyncio.ensure_future(self._finish(each, publisher, count)))
        await asyncio.gather(*finishing)

    async def _empty(self, earlier: Predecessor, publisher: Publisher) -> int | None:
        """Publish what a run left; return the number of records, None without the time for it."""
        earlier.count_unsettled()
        publishing = asyncio.ensure_future(publisher.run(self._on_fault))
        try:
            published = await self._publish(earlier, publisher)
        finally:
            await publisher.finish()
            await publishing
        ledger = earlier.run.ledger
        while any(each.unsettled > 0 for each in ledger.accounts().values()):
            if await within(SETTLE_POLL_S, self._stopping):
                return None
        return None if self._stopping.is_set() else published

    async def _finish(self, earlier: Predecessor, publisher: Publisher, published: int) -> None:
        """Close a run of which nothing is left, unless the time is over before."""
        killed = earlier.count_residual()
        if not await self._publish_final(earlier, publisher):
            return
        earlier.books.end()
        self._means.close_run(earlier.epoch)
        self._ledgers.remove(earlier.epoch)
        self._runs.remove(earlier)
        await asyncio.to_thread(earlier.leftovers.remove)
        log.info(
            "run_closed",
            agent_epoch=earlier.epoch,
            records=published,
            in_doubt_packets=killed.packets,
        )

    async def _publish(self, earlier: Predecessor, publisher: Publisher) -> int:
        """Publish what it left in the kernel; return the number of records."""
        count = 0
        batches = earlier.leftovers.drain(EndReason.FORCED)
        while not self._stopping.is_set():
            if (batch := await asyncio.to_thread(_next, batches)) is None:
                break
            count += len(batch.records)
            await publisher.put(batch)
        return count

    async def _publish_final(self, earlier: Predecessor, publisher: Publisher) -> bool:
        """Publish its final counters until they are published; False when there is no time."""
        ledger, pauses = earlier.run.ledger, Pauses(*_PAUSES_S)
        while True:
            failed = ledger.counters_failed
            for key in earlier.attachments():
                build = functools.partial(
                    counters_record,
                    identity=earlier.run.identity,
                    rhythm=self._rhythm,
                    snapshot=earlier.snapshot(key),
                    final=True,
                    spool=self._means.spool_state(),
                )
                await publisher.publish_counters(build)
            while not ledger.counters_settled:
                if await within(SETTLE_POLL_S, self._stopping):
                    return False
            if ledger.counters_failed == failed:
                return True
            pause = pauses.length()
            log.warning("run_not_closed", agent_epoch=earlier.epoch, retry_s=round(pause, 1))
            if await within(pause, self._stopping):
                return False


def _next(batches: Iterator[tuple[Stream, NDArray[np.void]]]) -> RecordBatch | None:
    found = next(batches, None)
    return None if found is None else RecordBatch(*found)

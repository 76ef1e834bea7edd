"""Keeps what a run publishes within ``--max-records``: the stage before the publisher's queue.

Flow records beyond it are aggregated, announcements beyond it are dropped and
counted. Within it records pass untouched.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from flowstream.accounting import terms
from flowstream.accounting.tally import Tally
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.pipeline.aggregate import aggregate
from flowstream.pipeline.publisher import RecordBatch
from flowstream.pipeline.readers import READ_RECORDS
from flowstream.streams import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.accounting.ledger import Ledger
    from flowstream.config.run import RunConfig
    from flowstream.pipeline.publisher import Publisher

CHUNK_RECORDS: Final = 65_536
"""Records that gather before held ones are merged again: bounds work and memory."""


class RecordLimit:
    """Passes on up to ``most`` flow records and as many announcements per interval.

    Of flow records the last ``reserve`` of the interval's budget are not passed on as
    they come: records beyond the others are held, merged into as many as are left
    whenever ``CHUNK_RECORDS`` more are there, and published at the interval's end.
    So nothing is merged unless the interval had more than ``most`` records, and the
    largest of those that were held are still whole.
    """

    def __init__(self, publisher: Publisher, ledger: Ledger, *, most: int, reserve: int) -> None:
        self._publisher, self._ledger = publisher, ledger
        self._most, self._reserve = most, min(reserve, most)
        self._flows_left = self._announcements_left = most
        self._held: list[NDArray[np.void]] = []
        self._merging = asyncio.Lock()

    @classmethod
    def of_run(cls, config: RunConfig, publisher: Publisher, ledger: Ledger) -> Self:
        """Return the limit that ``--max-records`` sets."""
        most, reserve = _budget(config)
        return cls(publisher, ledger, most=most, reserve=reserve)

    def configure(self, config: RunConfig) -> None:
        """Follow another configuration from the next interval on."""
        self._most, reserve = _budget(config)
        self._reserve = min(reserve, self._most)

    async def put(self, batch: RecordBatch) -> None:
        """Take a batch; wait while the publisher's queue is full or held records are merged."""
        if batch.stream is Stream.NEW_FLOWS:
            await self._announce(batch.records)
        elif len(batch.records) <= self._flows_left - self._reserve:
            self._flows_left -= len(batch.records)
            await self._publisher.put(batch)
        else:
            await self._hold(batch.records)

    async def begin_interval(self) -> None:
        """Publish what is held and begin a new budget."""
        held = await self._take_held()
        self._flows_left = self._announcements_left = self._most
        await self._publish(held)

    async def flush(self) -> None:
        """Publish what is held; it counts for the interval."""
        held = await self._take_held()
        self._flows_left = max(self._flows_left - len(held), 0)
        await self._publish(held)

    async def _announce(self, records: NDArray[np.void]) -> None:
        some, others = np.split(records, [self._announcements_left])
        self._announcements_left -= len(some)
        if len(others):
            tally = Tally.of_flows(others)
            self._ledger.drained(Stream.NEW_FLOWS, tally)
            self._ledger.lost(tally, terms.ANNOUNCEMENT_LIMITED)
        if len(some):
            await self._publisher.put(RecordBatch(Stream.NEW_FLOWS, some))

    async def _hold(self, records: NDArray[np.void]) -> None:
        self._ledger.drained(Stream.FLOWS, Tally.of_flows(records))
        async with self._merging:
            self._held.append(records)
            if sum(map(len, self._held)) > self._flows_left + CHUNK_RECORDS:
                await self._merge()

    async def _take_held(self) -> NDArray[np.void]:
        async with self._merging:
            await self._merge()
            held, self._held = self._held, []
        return held[0] if held else np.empty(0, FLOW_RECORD)

    async def _merge(self) -> None:
        """Make one array of what is held, of as many records as are left or fewer."""
        held, self._held = self._held, []
        if not held:
            return
        loop = asyncio.get_running_loop()
        tallies = [Tally.of_flows(records) for records in held]
        try:
            merged = await loop.run_in_executor(None, _merged, held, self._flows_left)
        except Exception:
            for tally in tallies:
                self._ledger.lost(tally, terms.INTERNAL_ERROR)
            raise
        self._ledger.aggregated(tallies, Tally.of_flows(merged))
        self._held.append(merged)

    async def _publish(self, records: NDArray[np.void]) -> None:
        for start in range(0, len(records), READ_RECORDS):
            part = records[start : start + READ_RECORDS]
            await self._publisher.put_drained(RecordBatch(Stream.FLOWS, part))


def _budget(config: RunConfig) -> tuple[int, int]:
    """Return the records of an interval, and the part of them that is the reserve."""
    most = max(round(config.max_records * config.interval_s), 1)
    return most, max(config.max_flows // 2, CHUNK_RECORDS)


def _merged(held: list[NDArray[np.void]], budget: int) -> NDArray[np.void]:
    """Merge records; ``held`` is emptied on the way, so that none is there twice for long."""
    # numpy copies void items by memcpy, structures field by field.
    octets = np.concatenate([records.view((np.void, FLOW_RECORD.itemsize)) for records in held])
    held.clear()
    return aggregate(octets.view(FLOW_RECORD), budget)

"""One capture: its packets go through the program, its flows to the publisher."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.snapshot import Moment, Snapshot, TableState
from flowstream.kernel.flow import PROGRAMS
from flowstream.kernel.link import Hook
from flowstream.layouts.constants import EndReason
from flowstream.pipeline.publisher import RecordBatch
from flowstream.pipeline.readers import READ_RECORDS
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.account import Account
    from flowstream.accounting.amounts import KernelCounts
    from flowstream.config.pcap import CaptureConfig
    from flowstream.kernel.packets import Packet, PacketFeed
    from flowstream.pipeline.publisher import Publisher

RUN_PACKETS: Final = 1024
"""Packets between two checks of table and rings, which have room for many more."""


class Clock:
    """Capture time: the latest packet's, Unix ns."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def read(self) -> int:
        """Return the current time."""
        return self._now_ns

    def advance(self, now_ns: int) -> None:
        """Advance, never step back: a capture's packets may be out of order."""
        self._now_ns = max(self._now_ns, now_ns)


class CaptureRun:
    """Runs the packets of one capture as if they came by an interface of that name and index."""

    def __init__(
        self, config: CaptureConfig, feed: PacketFeed, name: str, index: int, clock: Clock
    ) -> None:
        self.interface, self.key = name, AttachmentKey(index)
        self._max_flows, self._swaps = config.max_flows, 0
        self._interval_ns = round(config.interval_s * 1e9)
        self._clock = clock
        self._counts: KernelCounts | None = None
        self._feed = feed

    def counters(self) -> KernelCounts:
        """The program's counts; only once ``run`` has ended."""
        assert self._counts is not None  # noqa: S101 - a mistake of the caller
        return self._counts

    def snapshot(self, account: Account) -> Snapshot:
        """All counts of a capture whose ``run`` has ended, by the captures' clock."""
        now_ns = self._clock.read()
        return Snapshot(
            key=self.key,
            # The program runs on packets that were received before, as in generic mode. The
            # kernel numbers its programs: the number would differ from run to run.
            facts=Facts(
                self.interface, mode="generic", program_id=0, program_name=PROGRAMS[Hook.XDP]
            ),
            time=Moment(now_ns, now_ns),
            kernel=self.counters(),
            account=account,
            table=TableState(0, self._max_flows, self._swaps),
        )

    async def run(
        self, packets: Iterator[Packet], publisher: Publisher, progressed: Callable[[], object]
    ) -> None:
        """Publish the flows of ``packets``, which may end with an exception.

        Whatever ended it, what ran before is published and counted. ``progressed`` is
        called between bounded numbers of packets; what it raises ends the run too.
        The feed must be free: one capture runs after the other.
        """
        self._feed.begin(self.key.if_index)
        try:
            await self._run(packets, publisher, progressed)
        finally:
            try:
                await self._announce(publisher)
                await self._drain(publisher, EndReason.FORCED)
            finally:
                self._counts = self._feed.counters()

    async def _run(
        self, packets: Iterator[Packet], publisher: Publisher, progressed: Callable[[], object]
    ) -> None:
        begin_ns = None
        for first in packets:
            begin_ns = first[0] if begin_ns is None else begin_ns
            waiting: Packet | None = first
            while waiting is not None:
                # Packets need not be in order: an interval ends when one leaves it either way.
                # Intervals without packets have no records.
                passed = (waiting[0] - begin_ns) // self._interval_ns
                if passed:
                    await self._drain(publisher, EndReason.INTERVAL_OVER)
                    begin_ns += passed * self._interval_ns
                waiting = self._run_within(begin_ns, waiting, packets)
                await self._announce(publisher)
                if self._feed.nearly_full():
                    await self._drain(publisher, EndReason.LACK_OF_RESOURCES)
                progressed()
                # Lets publisher and sink run while the capture is read.
                await asyncio.sleep(0)

    def _run_within(
        self, begin_ns: int, first: Packet, packets: Iterator[Packet]
    ) -> Packet | None:
        """Run a bounded number of packets; return the first one outside of the interval."""
        some = itertools.chain([first], itertools.islice(packets, RUN_PACKETS))
        try:
            return self._feed.run(some, begin_ns, begin_ns + self._interval_ns)
        finally:
            self._clock.advance(self._feed.latest_ns)

    async def _announce(self, publisher: Publisher) -> None:
        announcements = self._feed.announcements(self._clock.read())
        await self._publish(publisher, Stream.NEW_FLOWS, announcements)

    async def _drain(self, publisher: Publisher, end_reason: int) -> None:
        self._swaps += 1
        await self._publish(
            publisher, Stream.FLOWS, self._feed.flows(end_reason, self._clock.read())
        )

    async def _publish(
        self, publisher: Publisher, stream: Stream, records: NDArray[np.void]
    ) -> None:
        for start in range(0, len(records), READ_RECORDS):
            await publisher.put(RecordBatch(stream, records[start : start + READ_RECORDS]))

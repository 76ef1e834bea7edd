"""One capture: its packets go through the program, its flows to the publisher."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

from flowstream.accounting.snapshot import Moment, ProgramId, Snapshot, TableState
from flowstream.accounting.tally import AttachmentKey
from flowstream.agent.pipeline import RecordBatch
from flowstream.agent.readers import READ_RECORDS
from flowstream.kernel.flow import NAME
from flowstream.kernel.link import Mode
from flowstream.kernel.packets import PacketFeed
from flowstream.layouts.constants import EndReason
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.ledger import Account
    from flowstream.agent.pipeline import Publisher
    from flowstream.config.pcap import CaptureConfig
    from flowstream.kernel.packets import Packet
    from flowstream.pcap.reader import CaptureFile

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

    def __init__(self, config: CaptureConfig, name: str, index: int, clock: Clock) -> None:
        self.interface, self.key = name, AttachmentKey(index)
        self._max_flows, self._swaps = config.max_flows, 0
        self._interval_ns = round(config.interval_s * 1e9)
        self._clock = clock
        self._counts: KernelCounts | None = None
        self._feed = PacketFeed(
            if_index=index, max_flows=config.max_flows, sampling=config.sampling
        )

    def counters(self) -> KernelCounts:
        """The program's counts; complete once ``run`` has ended."""
        return self._counts or self._feed.counters()

    def snapshot(self, account: Account) -> Snapshot:
        """All counts of a capture whose ``run`` has ended, by the captures' clock."""
        now_ns = self._clock.read()
        return Snapshot(
            interface=self.interface,
            key=self.key,
            # The program runs on packets that were received before, as in generic mode.
            mode=Mode.GENERIC.value,
            # The kernel numbers its programs: the number would differ from run to run.
            program=ProgramId(0, NAME),
            time=Moment(now_ns, now_ns),
            kernel=self.counters(),
            account=account,
            table=TableState(0, self._max_flows, self._swaps),
        )

    async def run(
        self, file: CaptureFile, publisher: Publisher, progressed: Callable[..., object]
    ) -> None:
        """Publish the flows of ``file``, up to a SourceError if the file is damaged."""
        try:
            await self._run(file.packets(), publisher, lambda: progressed(completed=file.position))
        finally:
            await self._drain(publisher, EndReason.FORCED)
            self._counts = self._feed.counters()
            self._feed.close()

    async def _run(
        self, packets: Iterator[Packet], publisher: Publisher, progressed: Callable[[], object]
    ) -> None:
        due = None
        for first in packets:
            due = first[0] + self._interval_ns if due is None else due
            waiting: Packet | None = first
            while waiting is not None:
                if waiting[0] >= due:
                    await self._drain(publisher, EndReason.INTERVAL_OVER)
                    # Intervals without packets have no records.
                    due += ((waiting[0] - due) // self._interval_ns + 1) * self._interval_ns
                waiting = self._run_until(waiting, packets, due)
                now_ns = self._clock.read()
                await self._publish(publisher, Stream.NEW_FLOWS, self._feed.announcements(now_ns))
                if self._feed.nearly_full():
                    await self._drain(publisher, EndReason.LACK_OF_RESOURCES)
                progressed()
                # Lets publisher and sink run while the capture is read.
                await asyncio.sleep(0)

    def _run_until(self, first: Packet, packets: Iterator[Packet], due: int) -> Packet | None:
        """Run a bounded number of packets from ``first`` on; return the first one past ``due``."""
        some = itertools.chain([first], itertools.islice(packets, RUN_PACKETS))
        past = self._feed.run(some, due)
        self._clock.advance(self._feed.latest_ns)
        return past

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

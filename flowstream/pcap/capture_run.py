"""One capture: its frames through the program, its flows to the publisher, by capture time."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.agent.pipeline import READ_RECORDS, RecordBatch
from flowstream.kernel.flow import NAME
from flowstream.kernel.link import Mode
from flowstream.kernel.packets import FrameFeed
from flowstream.layouts.xdp_flow import EndReason
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.ledger import KernelCounts
    from flowstream.agent.pipeline import Publisher
    from flowstream.config.pcap import CaptureConfig
    from flowstream.kernel.packets import Frame
    from flowstream.pcap.reader import CaptureFile

RUN_FRAMES: Final = 1024
"""Frames between two looks at table and rings, which hold many more."""


class Clock:
    """Capture time: the latest that was seen, Unix ns."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def read(self) -> int:
        """The time now."""
        return self._now_ns

    def advance(self, now_ns: int) -> None:
        """Go on, never back: a capture's packets may stand out of order."""
        self._now_ns = max(self._now_ns, now_ns)


class Named(NamedTuple):
    """What the records say of the program."""

    id: int
    name: str


class Replay:
    """Frames of one file as if they came by an interface of that name and index."""

    mode = Mode.GENERIC
    """The program runs on what was received before, as in generic mode."""

    def __init__(self, config: CaptureConfig, name: str, index: int, clock: Clock) -> None:
        self.interface, self.index = name, index
        # The kernel numbers its programs: the number would differ from run to run.
        self.program = Named(0, NAME)
        self.max_flows, self.swaps = config.max_flows, 0
        self._interval_ns = round(config.interval_s * 1e9)
        self._clock = clock
        self._counts: KernelCounts | None = None
        self._feed = FrameFeed(in_if=index, max_flows=config.max_flows, sampling=config.sampling)

    def counters(self) -> KernelCounts:
        """What the program counted; complete when ``run`` ended."""
        return self._counts or self._feed.counters()

    def table_entries(self) -> int:
        """Flows in the table: none is left when ``run`` ended."""
        return 0 if self._counts else self._feed.table_entries()

    async def run(
        self, file: CaptureFile, publisher: Publisher, progressed: Callable[..., object]
    ) -> None:
        """Publish the flows of ``file``; what came before a SourceError is published too."""
        try:
            await self._run(file.frames(), publisher, lambda: progressed(completed=file.position))
        finally:
            await self._drain(publisher, EndReason.END_FORCED)
            self._counts = self._feed.counters()
            self._feed.close()

    async def _run(
        self, frames: Iterator[Frame], publisher: Publisher, progressed: Callable[[], object]
    ) -> None:
        due = None
        for first in frames:
            due = first[0] + self._interval_ns if due is None else due
            waiting: Frame | None = first
            while waiting is not None:
                if waiting[0] >= due:
                    await self._drain(publisher, EndReason.END_ACTIVE_TIMEOUT)
                    # Intervals without a packet have no records.
                    due += ((waiting[0] - due) // self._interval_ns + 1) * self._interval_ns
                waiting = self._run_until(waiting, frames, due)
                now_ns = self._clock.read()
                await self._publish(publisher, Stream.NEW_FLOWS, self._feed.announcements(now_ns))
                if self._feed.nearly_full():
                    await self._drain(publisher, EndReason.END_FORCED)
                progressed()
                # The publisher and the sink have their turn as the capture is read.
                await asyncio.sleep(0)

    def _run_until(self, first: Frame, frames: Iterator[Frame], due: int) -> Frame | None:
        """Run frames from ``first`` on, a bounded number; return the first one past ``due``."""
        some = itertools.chain([first], itertools.islice(frames, RUN_FRAMES))
        past = self._feed.run(some, due)
        self._clock.advance(self._feed.latest_ns)
        return past

    async def _drain(self, publisher: Publisher, end_reason: int) -> None:
        self.swaps += 1
        await self._publish(
            publisher, Stream.FLOWS, self._feed.flows(end_reason, self._clock.read())
        )

    async def _publish(
        self, publisher: Publisher, stream: Stream, records: NDArray[np.void]
    ) -> None:
        for start in range(0, len(records), READ_RECORDS):
            await publisher.put(RecordBatch(stream, records[start : start + READ_RECORDS]))

"""The stage that drains the flow tables: every interval, and early when one is nearly full."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

from flowstream.layouts.constants import EndReason
from flowstream.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.agent.attachments import Attachments
    from flowstream.agent.faults import Faults
    from flowstream.pipeline.limit import RecordLimit
    from flowstream.pipeline.probe import Probe


class Draining:
    """Drains the tables of a probe in time."""

    def __init__(
        self, interval_s: float, attachments: Attachments, limit: RecordLimit, faults: Faults
    ) -> None:
        self._interval_s, self._due = interval_s, 0.0
        self._attachments, self._limit, self._faults = attachments, limit, faults
        self._now = asyncio.Event()

    def set_interval(self, seconds: float) -> None:
        """Change the time between two drains; another one ends the present interval."""
        if seconds != self._interval_s:
            self._interval_s, self._due = seconds, time.monotonic()
            self._now.set()

    def wake(self) -> None:
        """Drain now, or end."""
        self._now.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Drain until ``stopping`` is set and ``wake`` called."""
        self._due = time.monotonic() + self._interval_s
        self._now.clear()
        while not stopping.is_set():
            early = await within(self._due - time.monotonic(), self._now)
            # A flood that asks again and again must not put off the interval's end.
            early = early and time.monotonic() < self._due
            if stopping.is_set():
                return
            self._now.clear()
            due = self._due
            reason = EndReason.LACK_OF_RESOURCES if early else EndReason.INTERVAL_OVER
            await self._attachments.drain(reason)
            if not early:
                await self._limit.begin_interval()
                if self._due == due:
                    # Intervals missed because of a slow sink are skipped.
                    self._due = max(due + self._interval_s, time.monotonic())

    def watch(self, probe: Probe) -> Callable[[], object]:
        """Drain early whenever the kernel requests it; return how to end that."""
        ring = probe.wakeups
        if ring is None:
            return lambda: None
        loop = asyncio.get_running_loop()

        def on_wakeup() -> None:
            try:
                ring.read(1024)
            except Exception as fault:  # noqa: BLE001 - the loop would call again at once
                loop.remove_reader(ring.fd)
                self._faults.add(fault)
            self.wake()

        loop.add_reader(ring.fd, on_wakeup)
        return functools.partial(loop.remove_reader, ring.fd)

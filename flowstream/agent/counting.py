"""The stage that publishes counters records: every period, and the last ones."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.run import Run
    from flowstream.accounting.snapshot import Snapshot, SpoolState
    from flowstream.agent.attachments import Attachments
    from flowstream.agent.faults import Faults
    from flowstream.config.run import RunConfig
    from flowstream.pipeline.publisher import Publisher


class Counting:
    """Publishes the counts of attachments."""

    def __init__(
        self,
        config: RunConfig,
        publisher: Publisher,
        attachments: Attachments,
        run: Run,
        spool_state: Callable[[], SpoolState],
    ) -> None:
        self._publisher, self._attachments = publisher, attachments
        self._run, self._spool_state = run, spool_state
        self._rhythm, self._due = rhythm_of(config), 0.0
        self._first: list[AttachmentKey] = []
        self._news = asyncio.Event()

    def configure(self, config: RunConfig) -> None:
        """Follow another configuration; records say at once if their rhythm is another."""
        if (rhythm := rhythm_of(config)) != self._rhythm:
            self._rhythm, self._due = rhythm, time.monotonic()
            self.wake()

    def begin(self, key: AttachmentKey) -> None:
        """Publish an attachment's first record at once: every interface leaves a trace."""
        self._first.append(key)
        self.wake()

    def wake(self) -> None:
        """Let ``run`` see whether there is something to do, or that it has to end."""
        self._news.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish them now and every period, until ``stopping`` is set and ``wake`` called."""
        self._due = time.monotonic()
        while not stopping.is_set():
            first, self._first = self._first, []
            if time.monotonic() >= self._due:
                # Before: another rhythm may come meanwhile, which publishes them once more.
                period_s = self._rhythm.counters_period_ns / 1e9
                self._due = max(self._due + period_s, time.monotonic())
                await self._publish_present([*self._attachments])
            else:
                await self._publish_present(first)
            await within(self._due - time.monotonic(), self._news)
            self._news.clear()

    async def _publish_present(self, keys: Iterable[AttachmentKey]) -> None:
        for key in keys:
            # It may have gone meanwhile: nothing follows final counters.
            if key in self._attachments:
                await self.publish(self._attachments.snapshot(key), final=False)

    async def publish_last(self, deadline: float, faults: Faults, *, stays: bool) -> None:
        """Publish the last counters of every attachment, each whatever the others do.

        They are final, unless ``stays``: then those that are there still count.
        """
        for key in self._attachments:
            final = not (stays and key in self._attachments)
            with faults.collected():
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.5)):
                    await self.publish(self._attachments.snapshot(key), final=final)

    async def publish(self, counts: Snapshot, *, final: bool) -> None:
        """Publish one attachment's counters record."""
        build = functools.partial(
            counters_record,
            identity=self._run.identity,
            rhythm=self._rhythm,
            snapshot=counts,
            final=final,
            spool=self._spool_state(),
        )
        await self._publisher.publish_counters(build)


def rhythm_of(config: RunConfig) -> Rhythm:
    """Return how often a run publishes."""
    return Rhythm(round(config.interval_s * 1e9), round(config.counters_period_s * 1e9))

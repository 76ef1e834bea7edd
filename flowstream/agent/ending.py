"""The end of a run: detach → drain tables and rings → publish → final counters → close.

With --pin nothing is detached, and the counters of what stays are not final.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from flowstream.accounting import terms
from flowstream.errors import FlowstreamError
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flowstream.accounting.ledger import Ledger
    from flowstream.agent.attachments import Attachments
    from flowstream.agent.counting import Counting
    from flowstream.agent.faults import Faults
    from flowstream.pipeline.limit import RecordLimit
    from flowstream.pipeline.publisher import Publisher
    from flowstream.sink import Sink

DATA_SHARE: Final = 0.8
"""Part of the shutdown's time that records get; the rest is for the final counters."""
OVERTIME_S: Final = 5.0
"""Time beyond the shutdown's in which lost records may still be counted."""

log = structlog.get_logger()


class Stages(NamedTuple):
    """The running stages, which end in this order: those that take records out first."""

    intake: list[asyncio.Task[None]]
    publishing: asyncio.Task[None]
    counting: asyncio.Task[None]


class Ending:
    """Publishes all that the kernel holds, within ``timeout_s``; counts the rest as lost.

    ``stays``: attachments stay, for the next run.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        attachments: Attachments,
        limit: RecordLimit,
        publisher: Publisher,
        counting: Counting,
        sink: Sink,
        ledger: Ledger,
        faults: Faults,
        stays: bool = False,
    ) -> None:
        self._timeout_s, self._stays = timeout_s, stays
        self._attachments, self._limit = attachments, limit
        self._publisher, self._counting = publisher, counting
        self._sink, self._ledger, self._faults = sink, ledger, faults

    async def run(self, stages: Stages) -> None:
        """End a run whose ``stages`` were told to stop.

        Each step takes place whatever happened in those before it.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._stays:
            self._attachments.detach(self._faults)
        await self._empty_until(deadline, self._empty(stages))
        with self._faults.collected():
            await self._sink.flush(max(deadline - time.monotonic(), 0.5) * DATA_SHARE)
        await asyncio.wait([stages.counting], timeout=1)
        stages.counting.cancel()
        failed = self._ledger.counters_failed
        await self._counting.publish_last(deadline, self._faults, stays=self._stays)
        with self._faults.collected():
            await self._sink.close(max(deadline - time.monotonic(), 0.5))
        if self._ledger.counters_failed > failed:
            log.error("the final counters could not be published: the end looks unclean")
            self._faults.any = True

    async def _empty_until(self, deadline: float, work: Coroutine[object, object, None]) -> None:
        """Do ``work`` in ``DATA_SHARE`` of the time; count what is left then as lost."""
        emptying = asyncio.ensure_future(work)
        await asyncio.wait([emptying], timeout=(deadline - time.monotonic()) * DATA_SHARE)
        if not emptying.done():
            log.error("no time left to publish the remaining records: they are counted as lost")
            self._publisher.discard = terms.SHUTDOWN
        # flush(0) makes the sink give up its records, which lets emptying go on.
        while not emptying.done() and time.monotonic() < deadline + OVERTIME_S:
            with self._faults.collected():
                await self._sink.flush(0)
            await asyncio.wait([emptying], timeout=0.1)
        if not emptying.done():
            self._faults.add(FlowstreamError("records were left in the agent, uncounted"))
            emptying.cancel()

    async def _empty(self, stages: Stages) -> None:
        """Move everything from the kernel to the sink, in the order that loses nothing."""
        await asyncio.wait(stages.intake)
        # Drains both tables: a drain that failed may have left entries in the other one.
        # The swap's grace period also ends the last runs of the programs.
        with self._faults.collected():
            await self._attachments.drain(EndReason.FORCED)
        with self._faults.collected():
            await self._attachments.finish()
        with self._faults.collected():
            await self._limit.flush()
        await self._publisher.finish()
        await asyncio.wait([stages.publishing])

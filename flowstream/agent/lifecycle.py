"""The life of a run: what goes on at the same time, and how it ends in order.

run     ring readers, table drains and counters until a signal, the duration or a fault
end     detach → drain tables and rings → publish → final counters → close
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.agent.pipeline import Publisher, move_table, read_ring
from flowstream.agent.probe import snapshot
from flowstream.errors import FlowstreamError, SinkError
from flowstream.kernel import clock
from flowstream.layouts.xdp_flow import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowstream.accounting.ledger import Ledger
    from flowstream.agent.probe import Attachment, Probe
    from flowstream.config.run import RunConfig
    from flowstream.encode import Identity
    from flowstream.sink import Sink

DATA_SHARE: Final = 0.8
"""Part of the shutdown's time that records get; the rest is for the final counters."""

log = structlog.get_logger()


class Agent:
    """One run. Everything that it works with comes in by the constructor."""

    def __init__(
        self,
        config: RunConfig,
        probe: Probe,
        attached: Sequence[Attachment],
        sink: Sink,
        publisher: Publisher,
        ledger: Ledger,
        identity: Identity,
    ) -> None:
        self._config, self._probe, self._attached = config, probe, attached
        self._sink, self._publisher = sink, publisher
        self._ledger, self._identity = ledger, identity
        self._rhythm = Rhythm(
            round(config.interval_s * 1e9), round(config.counters_period_s * 1e9)
        )
        self._stopping = asyncio.Event()
        self._rings_end = asyncio.Event()
        self._drain_now = asyncio.Event()
        self._fault: BaseException | None = None
        self._signalled = False
        self._unclean = False

    async def run(self, topics: Sequence[str]) -> int:
        """Publish until told to stop; return the exit status."""
        self._catch_signals()
        if not await self._connect(topics):
            await self._sink.close(0)
            # What the kernel has counted by now appears in no topic.
            log.error("ended before the sink was there: nothing was published", **self._summary())
            return 1
        log.info("publishing", sink=self._config.sink, format=self._config.format)
        rings = [*self._probe.rings, *(ring for each in self._attached for ring in each.rings)]
        readers = [
            self._spawn(read_ring(ring, self._publisher, self._rings_end)) for ring in rings
        ]
        publishing = self._spawn(self._publisher.run(self._fail))
        draining = self._spawn(self._drain_tables())
        counting = self._spawn(self._publish_counters())
        waking = self._watch_wakeups()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._config.duration_s)
        self._stop()
        waking()
        await self._end(draining, counting, readers, publishing)
        return 1 if self._fault or self._unclean else 0

    async def _connect(self, topics: Sequence[str]) -> bool:
        """Start the sink; return whether that was done before a signal came."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        starting = asyncio.ensure_future(self._sink.start(topics))
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return False
        await starting
        return True

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._signalled:
            log.error("second signal: ending at once, what is not yet published is lost")
            # The links go with the process: nothing stays on the interfaces.
            os._exit(1)
        self._signalled = True
        log.info("stopping", signal=signal.Signals(number).name)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._drain_now.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a stage; its failure ends the run."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fail(fault)

    def _fail(self, fault: BaseException) -> None:
        if self._fault is None:
            self._fault = fault
            # A fault that was foreseen explains itself; of others all is worth knowing.
            known = isinstance(fault, FlowstreamError)
            log.error("a stage failed", error=str(fault), exc_info=None if known else fault)
        self._stop()

    def _watch_wakeups(self) -> Callable[[], object]:
        """Set ``_drain_now`` when the kernel asks for an early swap; return how to end it."""
        ring = self._probe.wakeups
        if ring is None:
            return lambda: None
        loop = asyncio.get_running_loop()

        def on_wakeup() -> None:
            ring.read(1024)
            self._drain_now.set()

        loop.add_reader(ring.fd, on_wakeup)
        return functools.partial(loop.remove_reader, ring.fd)

    async def _drain_tables(self) -> None:
        """Drain every interval, and early when the table is about to be full."""
        due = time.monotonic() + self._config.interval_s
        while not self._stopping.is_set():
            early = await self._told_to_drain(due - time.monotonic())
            if self._stopping.is_set():
                return
            self._drain_now.clear()
            reason = EndReason.END_LACK_OF_RESOURCES if early else EndReason.END_ACTIVE_TIMEOUT
            await move_table(self._probe.drain(reason), self._publisher)
            if not early:
                # Intervals that a slow sink made us miss are not made up for.
                due = max(due + self._config.interval_s, time.monotonic())

    async def _told_to_drain(self, within_s: float) -> bool:
        """Wait so long, unless the table is full or the end has come before."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain_now.wait(), max(within_s, 0))
        return self._drain_now.is_set()

    async def _publish_counters(self) -> None:
        due = time.monotonic() + self._config.counters_period_s
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(due - time.monotonic(), 0))
            if self._stopping.is_set():
                return
            await self._counters(final=False)
            if self._sink.fault:
                raise SinkError(self._sink.fault)
            due = max(due + self._config.counters_period_s, time.monotonic())

    async def _counters(self, *, final: bool) -> None:
        now = clock.now()
        for each in self._attached:
            build = functools.partial(
                counters_record,
                identity=self._identity,
                rhythm=self._rhythm,
                snapshot=snapshot(each, self._probe, self._ledger, now),
                final=final,
            )
            await self._publisher.publish_counters(build)

    async def _end(
        self,
        draining: asyncio.Task[None],
        counting: asyncio.Task[None],
        readers: Sequence[asyncio.Task[None]],
        publishing: asyncio.Task[None],
    ) -> None:
        """Publish everything that was captured, within the deadline; count what was not."""
        deadline = time.monotonic() + self._config.shutdown_timeout_s
        share = self._config.shutdown_timeout_s * DATA_SHARE
        for each in self._attached:
            each.detach()
        emptying = asyncio.ensure_future(self._empty(draining, readers, publishing))
        await asyncio.wait([emptying], timeout=share)
        if not emptying.done():
            log.error("no time left to publish what was captured: it is counted as lost")
            self._publisher.discard = "shutdown"
        # Gives up what the sink holds when its time is over, which lets emptying go on.
        while not emptying.done():
            await self._sink.flush(0)
            await asyncio.wait([emptying], timeout=0.1)
        await emptying
        await self._sink.flush(max(deadline - time.monotonic(), 0.5) * DATA_SHARE)
        await asyncio.wait([counting], timeout=1)
        counting.cancel()
        failed = self._ledger.counters_failed
        await self._counters(final=True)
        await self._sink.close(max(deadline - time.monotonic(), 0.5))
        if self._sink.fault:
            self._fail(SinkError(self._sink.fault))
        if self._ledger.counters_failed > failed:
            log.error("the final counters could not be published: the end looks unclean")
            self._unclean = True
        log.info("ended", **self._summary())

    async def _empty(
        self,
        draining: asyncio.Task[None],
        readers: Sequence[asyncio.Task[None]],
        publishing: asyncio.Task[None],
    ) -> None:
        """Move all that is in the kernel to the sink, in the order that loses nothing."""
        await asyncio.wait([draining])
        # Both tables: a drain that failed may have left something in the other one.
        # The swap's grace period also ends the last runs of the program.
        await move_table(self._probe.drain(EndReason.END_FORCED), self._publisher)
        self._rings_end.set()
        if readers:
            await asyncio.wait(readers)
        await self._publisher.finish()
        await asyncio.wait([publishing])

    def _summary(self) -> dict[str, int]:
        counts = [each.counters() for each in self._attached]
        accounts = [self._ledger.account(each.key) for each in self._attached]
        return {
            "seen_packets": sum(count.seen.packets for count in counts),
            "flow_records": sum(account.flows.acknowledged for account in accounts),
            "new_flow_records": sum(account.new_flows.acknowledged for account in accounts),
            "failed_records": sum(account.flows.failed for account in accounts),
        }

"""The life of a run: its concurrent stages, and its orderly end.

run     ring readers, table drains and counters until a signal, the duration or a fault
end     detach → drain tables and rings → publish → final counters → close

Attachments may be added and removed while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.accounting import terms
from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.accounting.snapshot import SpoolState
from flowstream.agent.attachments import Attachments
from flowstream.agent.faults import Faults
from flowstream.agent.limit import RecordLimit
from flowstream.agent.signals import Signals
from flowstream.errors import FlowstreamError, SinkError
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowstream.accounting.snapshot import Snapshot
    from flowstream.accounting.tally import AttachmentKey
    from flowstream.agent.pipeline import Publisher
    from flowstream.agent.probe import Attachment, Probe
    from flowstream.agent.state import Run
    from flowstream.config.run import RunConfig
    from flowstream.sink import Sink

DATA_SHARE: Final = 0.8
"""Part of the shutdown's time that records get; the rest is for the final counters."""
SETTLE_POLL_S: Final = 0.02
"""How often a removal checks whether the sink has settled the attachment's records."""
OVERTIME_S: Final = 5.0
"""Time beyond the shutdown's in which lost records may still be counted."""
FAULT_POLL_S: Final = 0.5
"""How often the run checks whether the sink has failed."""

log = structlog.get_logger()


class Agent:
    """The process of a run. Its collaborators come in by the constructor."""

    def __init__(
        self,
        config: RunConfig,
        probe: Probe,
        sink: Sink,
        publisher: Publisher,
        run: Run,
        signals: Signals | None = None,
        spool_state: Callable[[], SpoolState] = SpoolState,
    ) -> None:
        self._config, self._probe = config, probe
        self._sink, self._publisher = sink, publisher
        self._run, self._spool_state = run, spool_state
        self._rhythm = Rhythm(
            round(config.interval_s * 1e9), round(config.counters_period_s * 1e9)
        )
        self._limit = RecordLimit.of_run(config, publisher, run.ledger)
        self._attachments = Attachments(probe, self._limit, run, self._spawn)
        self._removals: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._drain_now = asyncio.Event()
        self._signals = signals or Signals()
        self._faults = Faults(self.stop)
        self._sink_failed = False

    def add(self, attachment: Attachment) -> None:
        """Publish an attachment's records and counters from now on, or from the start of ``run``.

        UsageError when its interface has an attachment already.
        """
        self._attachments.add(attachment)

    async def remove(self, key: AttachmentKey) -> None:
        """Take one attachment out of the run.

        Its program is detached, its remaining records are published, and its final
        counters follow once the sink has acknowledged or given up all of them. The
        other attachments continue meanwhile. If the run ends first, the rest happens
        at its end. KeyError when there is no such attachment.
        """
        if key not in self._attachments:
            raise KeyError(key)
        if self._stopping.is_set():
            return
        removal = self._spawn(self._remove(key))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        await asyncio.shield(removal)

    async def _remove(self, key: AttachmentKey) -> None:
        await self._attachments.empty(key, EndReason.FORCED)
        await self._limit.flush()
        await self._publisher.passed()
        while not (self._stopping.is_set() or self._run.ledger.account(key).settled):
            await _within(SETTLE_POLL_S, self._stopping)
        if self._stopping.is_set():
            return
        last = self._attachments.snapshot(key)
        await self._publish(last, final=True)
        self._attachments.forget(last)

    async def run(self, topics: Sequence[str]) -> int:
        """Publish until told to stop; return the exit status."""
        self._signals.deliver(self.stop)
        if not await self._connect(topics):
            await self._sink.close(0)
            # The log is the only place for the kernel's counts.
            log.error("ended before the sink connected: nothing was published", **self._summary())
            return 1
        log.info("publishing", sink=self._config.sink, format=self._config.format)
        self._attachments.start()
        publishing = self._spawn(self._publisher.run(self._faults.add))
        draining = self._spawn(self._drain_tables())
        counting = self._spawn(self._publish_counters())
        watching = self._spawn(self._watch_sink())
        waking = self._watch_wakeups()
        await _within(self._config.duration_s, self._stopping)
        self.stop()
        waking()
        await asyncio.wait([watching])
        await self._end(draining, counting, publishing)
        return 1 if self._faults.any else 0

    async def _connect(self, topics: Sequence[str]) -> bool:
        """Start the sink; return False when a signal came first."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        starting = asyncio.ensure_future(self._sink.start(topics))
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        # A sink that has a spool has started by then, also without a connection.
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await starting
        return not starting.cancelled()

    def stop(self) -> None:
        """Let ``run`` end in order, as a signal does."""
        self._stopping.set()
        self._drain_now.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a stage; its failure ends the run."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._faults.add_of)
        return task

    async def _watch_sink(self) -> None:
        while not await _within(FAULT_POLL_S, self._stopping):
            self._check_sink()

    def _check_sink(self) -> None:
        if self._sink.fault and not self._sink_failed:
            self._sink_failed = True
            self._faults.add(SinkError(self._sink.fault))

    def _watch_wakeups(self) -> Callable[[], object]:
        """Set ``_drain_now`` when the kernel requests an early swap; return how to end that."""
        ring = self._probe.wakeups
        if ring is None:
            return lambda: None
        loop = asyncio.get_running_loop()

        def on_wakeup() -> None:
            try:
                ring.read(1024)
            except Exception as fault:  # noqa: BLE001 - the loop would call again at once
                loop.remove_reader(ring.fd)
                self._faults.add(fault)
            self._drain_now.set()

        loop.add_reader(ring.fd, on_wakeup)
        return functools.partial(loop.remove_reader, ring.fd)

    async def _drain_tables(self) -> None:
        """Drain every interval, and early when the table is nearly full."""
        due = time.monotonic() + self._config.interval_s
        while not self._stopping.is_set():
            early = await _within(due - time.monotonic(), self._drain_now)
            # A flood that asks again and again must not put off the interval's end.
            early = early and time.monotonic() < due
            if self._stopping.is_set():
                return
            self._drain_now.clear()
            reason = EndReason.LACK_OF_RESOURCES if early else EndReason.INTERVAL_OVER
            await self._attachments.drain(reason)
            if not early:
                await self._limit.begin_interval()
                # Intervals missed because of a slow sink are skipped.
                due = max(due + self._config.interval_s, time.monotonic())

    async def _publish_counters(self) -> None:
        """Publish them every period, from now on: every interface leaves a trace at once."""
        due = time.monotonic()
        while not await _within(due - time.monotonic(), self._stopping):
            for counts in self._attachments.snapshots():
                await self._publish(counts, final=False)
            due = max(due + self._config.counters_period_s, time.monotonic())

    async def _publish_final_counters(self, deadline: float) -> None:
        for key in self._attachments:
            with self._faults.collected():
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.5)):
                    await self._publish(self._attachments.snapshot(key), final=True)

    async def _publish(self, counts: Snapshot, *, final: bool) -> None:
        build = functools.partial(
            counters_record,
            identity=self._run.identity,
            rhythm=self._rhythm,
            snapshot=counts,
            final=final,
            spool=self._spool_state(),
        )
        await self._publisher.publish_counters(build)

    async def _end(
        self,
        draining: asyncio.Task[None],
        counting: asyncio.Task[None],
        publishing: asyncio.Task[None],
    ) -> None:
        """Publish all that the kernel holds, within the deadline; count the rest as lost.

        Each step takes place whatever happened in those before it.
        """
        deadline = time.monotonic() + self._config.shutdown_timeout_s
        self._attachments.detach(self._faults)
        await self._empty_until(deadline, self._empty(draining, publishing))
        with self._faults.collected():
            await self._sink.flush(max(deadline - time.monotonic(), 0.5) * DATA_SHARE)
        await asyncio.wait([counting], timeout=1)
        counting.cancel()
        failed = self._run.ledger.counters_failed
        await self._publish_final_counters(deadline)
        with self._faults.collected():
            await self._sink.close(max(deadline - time.monotonic(), 0.5))
        self._check_sink()
        if self._run.ledger.counters_failed > failed:
            log.error("the final counters could not be published: the end looks unclean")
            self._faults.any = True
        log.info("ended", **self._summary())

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

    async def _empty(self, draining: asyncio.Task[None], publishing: asyncio.Task[None]) -> None:
        """Move everything from the kernel to the sink, in the order that loses nothing."""
        await asyncio.wait([draining, *self._removals])
        # Drains both tables: a drain that failed may have left entries in the other one.
        # The swap's grace period also ends the last runs of the programs.
        with self._faults.collected():
            await self._attachments.drain(EndReason.FORCED)
        with self._faults.collected():
            await self._attachments.finish()
        with self._faults.collected():
            await self._limit.flush()
        await self._publisher.finish()
        await asyncio.wait([publishing])

    def _summary(self) -> dict[str, int]:
        seen: dict[str, int] = {}
        with self._faults.collected():
            seen["seen_packets"] = self._attachments.seen_packets()
        return seen | self._run.sums()


async def _within(seconds: float | None, event: asyncio.Event) -> bool:
    """Wait for an event, ``seconds`` at most (None: no limit); return whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()

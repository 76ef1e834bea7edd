"""The life of a run: its concurrent stages, until a signal, the duration or a fault.

start   follow the interfaces → connect the sink
run     ring readers, table drains (draining) and counters (counting)
end     detach → drain tables and rings → publish → final counters → close (ending)

Attachments may be added and removed while it runs.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting.snapshot import SpoolState
from flowstream.agent.attachments import Attachments
from flowstream.agent.connecting import connect
from flowstream.agent.counting import Counting, rhythm_of
from flowstream.agent.draining import Draining
from flowstream.agent.ending import Ending, Stages
from flowstream.agent.faults import Faults
from flowstream.agent.guarding import guard
from flowstream.agent.notifying import Notifying
from flowstream.agent.observing import Observing
from flowstream.agent.reloading import Reloading, Reloads
from flowstream.agent.removals import Removals
from flowstream.agent.signals import Signals
from flowstream.agent.sink_watch import SinkWatch
from flowstream.chain.predecessors import Predecessors
from flowstream.host.service_manager import ServiceManager
from flowstream.pipeline.limit import RecordLimit
from flowstream.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.ledgers import Ledgers
    from flowstream.accounting.run import Run
    from flowstream.agent.latency import Latency
    from flowstream.agent.stages import Accompanying, Stage
    from flowstream.attacher.process import Process
    from flowstream.chain.chain import Chain
    from flowstream.config.run import RunConfig
    from flowstream.config.source import ConfigSource
    from flowstream.pipeline.probe import Attachment, Probe
    from flowstream.pipeline.publisher import Means, Publisher
    from flowstream.sink import Sink


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
        source: ConfigSource | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._config, self._probe = config, probe
        self._sink, self._publisher, self._run = sink, publisher, run
        self._spool_state = spool_state
        self._stopping, self._publishing = asyncio.Event(), asyncio.Event()
        self._signals = signals or Signals()
        self._faults = Faults(self.stop)
        self._sink_watch = SinkWatch(sink, self._faults)
        self._attacher: Process | None = None
        self._limit = RecordLimit.of_run(config, publisher, run.ledger)
        self._attachments = Attachments(probe, self._limit, run, self._spawn)
        self._draining = Draining(config.interval_s, self._attachments, self._limit, self._faults)
        self._counting = Counting(config, publisher, self._attachments, run, spool_state)
        self._removals = Removals(
            self._attachments, self._limit, publisher, self._counting, run.ledger
        )
        self._chain: Chain | None = None
        self._predecessors: Predecessors | None = None
        self._manager = manager or ServiceManager()
        self._notifying = Notifying(self._manager, config, self._attachments, run, spool_state)
        self._reloading = (
            Reloading(source, config, self._configure, self._manager) if source else None
        )
        self._removing: set[asyncio.Task[None]] = set()
        self._stages: list[Stage] = [self._draining, self._removals]
        self._accompanying: list[Accompanying] = []

    def __contains__(self, key: AttachmentKey) -> bool:
        """Whether there is an attachment, or one that is being removed."""
        return key in self._attachments

    def __getitem__(self, key: AttachmentKey) -> Attachment:
        """Return the attachment of a key, which may be another later: see ``replace``."""
        return self._attachments[key]

    def close(self) -> None:
        """Detach and release all attachments; harmless twice."""
        self._attachments.close()

    def accompany(self, stage: Accompanying) -> None:
        """Run another stage, which may add and remove attachments; the end begins after it."""
        self._accompanying.append(stage)

    def add(self, attachment: Attachment, netns: str = "") -> None:
        """Publish an attachment's records and counters from now on, or from the start of ``run``.

        ``netns`` is the name of its network namespace. UsageError when its interface has an
        attachment already.
        """
        self._attachments.add(attachment, netns)
        self._counting.begin(attachment.key)

    def succeed(self, chain: Chain, means: Means, ledgers: Ledgers) -> None:
        """Close the runs before this one, and leave the programs to the next."""
        self._chain, chain.books.on_fault = chain, self._faults.add
        rhythm = rhythm_of(self._config)
        self._predecessors = Predecessors(
            chain.predecessors, means, ledgers, rhythm, self._faults.add
        )
        self._stages.append(self._predecessors)

    def observing(self, chosen: Callable[[], int], latency: Latency) -> Observing:
        """Return the reader of the run's state; ``chosen`` counts the chosen interfaces."""
        return Observing(
            self._config,
            probe=self._probe,
            sink=self._sink,
            publisher=self._publisher,
            run=self._run,
            attachments=self._attachments,
            spool_state=self._spool_state,
            chosen=chosen,
            latency=latency,
            reloads=self._reloading.reloads if self._reloading else Reloads(),
            publishing=self._publishing,
            stopping=self._stopping,
        )

    def depend_on(self, process: Process) -> None:
        """End the run in order when the attacher's process ends."""
        self._attacher = process

    def rename(self, if_index: int, name: str) -> None:
        """Name an interface from the next batch on."""
        self._run.rename(if_index, name)

    async def remove(self, key: AttachmentKey) -> None:
        """Take one attachment out of the run, once it publishes.

        Returns when its program is detached and its remaining records are on their way.
        Its final counters follow once the sink has acknowledged or given up all of them,
        unless it is added again before: then its counts go on. The other attachments
        continue meanwhile. If the run ends first, the rest happens at its end. KeyError
        when there is no such attachment.
        """
        if key not in self._attachments:
            raise KeyError(key)
        if self._stopping.is_set():
            return
        await asyncio.shield(self._take_out(partial(self._removals.remove, key)))

    def replace(self, attachment: Attachment) -> None:
        """Let an attachment take the place of the one whose link it has taken over.

        Its counts go on where those of the other one end.
        """
        former = self._attachments.replace(attachment)
        self._take_out(partial(self._attachments.empty_former, former))

    def _take_out(self, work: Callable[[], Coroutine[object, object, None]]) -> asyncio.Task[None]:
        """Move what an attachment leaves in the kernel; the run's end waits for it.

        It stays there, counted, as long as nothing is published.
        """

        async def work_once_publishing() -> None:
            await self._publishing.wait()
            await work()

        task = self._spawn(work_once_publishing())
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)
        return task

    async def run(self, topics: Sequence[str]) -> int:
        """Publish until told to stop; return the exit status."""
        unguard = guard(self._attacher, self._faults) if self._attacher else lambda: None
        # Until the very end: everything that is left may take its time.
        notifying = self._spawn(self._notifying.run())
        try:
            return await self._run_to_end(topics)
        finally:
            notifying.cancel()
            unguard()

    async def _run_to_end(self, topics: Sequence[str]) -> int:
        if self._reloading:
            self._spawn(self._reloading.run())
        self._signals.deliver(self.stop, self._reloading.request if self._reloading else None)
        others = [self._spawn(stage.run(self._stopping)) for stage in self._accompanying]
        if not await self._connect(topics, others):
            await self._sink.close(0)
            # The log is the only place for the kernel's counts.
            log.error("ended before the sink connected: nothing was published", **self._summary())
            return 1
        log.info("publishing", sink=self._config.sink, format=self._config.format)
        self._attachments.start()
        self._publishing.set()
        self._notifying.ready()
        publishing = self._spawn(self._publisher.run(self._faults.add))
        counting = self._spawn(self._counting.run(self._stopping))
        intake = [self._spawn(stage.run(self._stopping)) for stage in self._stages]
        watching = self._spawn(self._sink_watch.run(self._stopping))
        waking = self._draining.watch(self._probe)
        await within(self._config.duration_s, self._stopping)
        self.stop()
        waking()
        await asyncio.wait([watching, *others])
        await self._end(Stages([*intake, *self._removing], publishing, counting))
        return 1 if self._faults.any else 0

    async def _connect(self, topics: Sequence[str], others: Sequence[asyncio.Task[None]]) -> bool:
        """Start the sink; if that fails, end the ``others``, which run already."""
        # Ending would let the next run take the links over, too, which makes one more run
        # to close each time: the kernel keeps the tables of each of them.
        patient = bool(self._run.previous)
        connected = False
        try:
            connected = await connect(self._sink, topics, self._stopping, patient=patient)
        finally:
            if not connected:
                self.stop()
                for task in self._removing:
                    task.cancel()
                await asyncio.gather(*others, *self._removing, return_exceptions=True)
        return connected

    def stop(self) -> None:
        """Let ``run`` end in order, as a signal does."""
        self._stopping.set()
        self._manager.stopping()
        for stage in (*self._stages, self._counting, *self._accompanying):
            stage.wake()
        if self._reloading:
            self._reloading.stop()

    def _configure(self, config: RunConfig) -> None:
        """Follow another configuration in all that may change during a run."""
        self._config = config
        self._limit.configure(config)
        self._draining.set_interval(config.interval_s)
        self._counting.configure(config)
        self._notifying.configure(config)
        for stage in self._accompanying:
            stage.configure(config)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a stage; its failure ends the run."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._faults.add_of)
        return task

    async def _end(self, stages: Stages) -> None:
        ending = Ending(
            self._config.shutdown_timeout_s,
            attachments=self._attachments,
            limit=self._limit,
            publisher=self._publisher,
            counting=self._counting,
            sink=self._sink,
            ledger=self._run.ledger,
            faults=self._faults,
            stays=self._config.pin is not None,
        )
        await ending.run(stages)
        self._sink_watch.check()
        if self._chain:
            with self._faults.collected():
                self._chain.leave(self._predecessors)
        log.info("ended", **self._summary())

    def _summary(self) -> dict[str, int]:
        seen: dict[str, int] = {}
        with self._faults.collected():
            seen["seen_packets"] = self._attachments.seen_packets()
        return seen | self._run.sums()

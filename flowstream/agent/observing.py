"""The state of a run for metrics and health checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowstream.accounting.snapshot import TableState
from flowstream.config import units
from flowstream.delivery.condition import Condition
from flowstream.metrics.observation import Attached, Durations, Fill, Health, Observation, Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.accounting.run import Run
    from flowstream.accounting.snapshot import Snapshot, SpoolState
    from flowstream.agent.attachments import Attachments
    from flowstream.agent.latency import Latency
    from flowstream.agent.reloading import Reloads
    from flowstream.config.run import RunConfig
    from flowstream.pipeline.probe import Probe
    from flowstream.pipeline.publisher import Publisher
    from flowstream.sink import Sink


class Observing:
    """Reads the state of a run; see ``metrics.observation.Observable``.

    ``chosen`` returns how many interfaces the options choose. ``publishing`` is set once the
    sink has started, ``stopping`` when the end begins.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        probe: Probe,
        sink: Sink,
        publisher: Publisher,
        run: Run,
        attachments: Attachments,
        spool_state: Callable[[], SpoolState],
        chosen: Callable[[], int],
        latency: Latency,
        reloads: Reloads,
        publishing: asyncio.Event,
        stopping: asyncio.Event,
    ) -> None:
        self._config, self._probe, self._sink = config, probe, sink
        self._publisher, self._run, self._attachments = publisher, run, attachments
        self._spool_state, self._chosen, self._latency = spool_state, chosen, latency
        self._reloads, self._publishing, self._stopping = reloads, publishing, stopping

    async def observe(self) -> Observation:
        """Read all counts; gives way to other work between attachments."""
        snapshots = await self._snapshots()
        probe, config = self._probe, self._config
        return Observation(
            identity=self._run.identity,
            sink=config.sink,
            format=config.format,
            condition=self._sink.condition,
            snapshots=snapshots,
            spool=self._spool(),
            table=TableState(probe.table_entries(), probe.max_flows, probe.swaps),
            rings={
                ring.name: Fill(ring.produced - ring.consumed, ring.size) for ring in probe.rings
            },
            queue=Fill(*self._publisher.queue),
            durations=Durations(
                self._latency.distributions(),
                self._attachments.drain_duration.distribution(),
                self._publisher.encode_duration.distribution(),
            ),
            interfaces=self._chosen(),
            failed_attaches=self._run.changes["failed_attaches"],
            reloads=dict(self._reloads.results),
            last_reload_failed=self._reloads.last_failed,
            configured_unix_s=self._reloads.configured_unix_s,
        )

    async def _snapshots(self) -> list[Snapshot]:
        taken = []
        for key in [*self._attachments]:
            # It may have gone meanwhile.
            if self._attachments.has_counts(key):
                taken.append(self._attachments.snapshot(key))
                await asyncio.sleep(0)
        return taken

    def _spool(self) -> Spool | None:
        if self._config.spool is None:
            return None
        return Spool(self._spool_state(), units.octets(self._config.spool_size))

    def health(self) -> Health:
        """Say whether the run observes and publishes."""
        attached = [
            Attached(key, self._run.names[key.if_index], known.facts.netns)
            for key, known in sorted(self._run.known.items())
            if known.attached
        ]
        runs = self._publishing.is_set() and not self._stopping.is_set()
        condition = self._sink.condition if runs else None
        return Health(attached, condition, self._reason(condition, any_attached=bool(attached)))

    def _reason(self, condition: Condition | None, *, any_attached: bool) -> str:
        """Return why the run does not observe and publish; empty if it does."""
        if self._stopping.is_set():
            return "the run is ending"
        if condition is None:
            return "the sink has not started"
        if condition is Condition.FAILED:
            return f"the sink has failed: {self._sink.fault}"
        if condition is Condition.WAITING:
            return "the cluster does not take records, which wait in memory"
        if condition is Condition.REFUSED:
            return "the cluster refuses the records of a topic, which are lost: see the log"
        return "" if any_attached else "no interface is attached to"

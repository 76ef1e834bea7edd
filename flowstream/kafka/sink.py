"""The Kafka sink: acknowledged by all replicas, idempotent, never blocked by a broker.

The lanes keep every accepted record until it has an outcome; a supervisor
publishes from them, with one producer at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting import terms
from flowstream.delivery.condition import Condition
from flowstream.delivery.space import Space
from flowstream.kafka.client import codec_of, load
from flowstream.kafka.cluster import Cluster
from flowstream.kafka.lane import RECORD_OVERHEAD
from flowstream.kafka.lanes import Lanes
from flowstream.kafka.limits import Limits
from flowstream.kafka.losses import LossLog
from flowstream.kafka.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import MessageBatch

log = structlog.get_logger(__name__)

# Seconds between checks of the deadlines.
_TICK = 0.25


class KafkaSink:
    """Publishes to a Kafka cluster; see ``flowstream.sink.Sink``.

    Topics that it creates get ``topic_settings``.
    """

    def __init__(
        self,
        settings: ClientSettings,
        outcomes: Outcomes[MessageBatch],
        *,
        partitions: int | Mapping[str, int],
        limits: Limits | None = None,
        topic_settings: Mapping[str, str] | None = None,
    ) -> None:
        load(settings)
        codec_of(settings)
        self._outcomes = outcomes
        self._limits = limits or Limits.of(settings)
        self._cluster = Cluster(
            settings, self._limits, partitions=partitions, topic_settings=topic_settings or {}
        )
        self._space = Space(self._limits.in_flight_bytes)
        # A quarter: flights that grow by an eighth stay well below the timeout.
        self._lanes = Lanes(outcomes, self._space, prompt=self._limits.request_timeout / 4)
        self._supervisor = Supervisor(self._cluster, self._lanes, self._limits)
        self._fault: str | None = None
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._losses = LossLog(self._lanes)

    @property
    def fault(self) -> str | None:
        """See ``flowstream.sink.Sink``."""
        return self._supervisor.fault or self._fault

    @property
    def condition(self) -> Condition:
        """See ``flowstream.sink.Sink``."""
        if self.fault:
            return Condition.FAILED
        if not self.acknowledging:
            return Condition.WAITING
        return Condition.REFUSED if self.refusals else Condition.PUBLISHING

    @property
    def refusals(self) -> frozenset[str]:
        """Causes for which topics refuse everything, as far as is known."""
        return self._supervisor.refusals

    @property
    def acknowledging(self) -> bool:
        """Whether the cluster is connected and answers.

        That is: the producer in use is not being replaced, and it has no batch that is
        older than ``Limits.answer_timeout`` or had an answer within that time.
        """
        return self._supervisor.acknowledging(_now())

    @property
    def memory_share(self) -> float:
        """Share of ``Limits.in_flight_bytes`` that unsettled records take.

        From 0 to 1; beyond 1 while a single batch is larger than the limit.
        """
        return self._space.used / self._limits.in_flight_bytes

    def prepare(self, topics: Sequence[str]) -> None:
        """Do nothing: connecting needs no privilege."""

    def load(self) -> None:
        """Do nothing: everything is imported already."""

    async def start(self, topics: Sequence[str], *, wait: bool = True) -> None:
        """Connect and create missing topics.

        Waits for the broker and raises ``SinkError`` when that fails; without ``wait``
        it returns at once and connects in the background, however long it takes.
        """
        self._cluster.topics = tuple(topics)
        await self._supervisor.start(await self._cluster.connect() if wait else None)
        self._tick()

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``, as last seen.

        Before the cluster is connected: the number that a missing topic is created with.
        """
        return self._supervisor.partitions(topic)

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while ``in_flight_bytes`` are unsettled."""
        if not len(batch):
            return
        size = batch.octets + RECORD_OVERHEAD * len(batch)
        if not await self._space.take(size):
            self._outcomes.failed(batch, slice(0, len(batch)), terms.SHUTDOWN)
            return
        # The batch may have been made for more partitions than the topic has by now.
        partition = batch.partition % self.partitions(batch.topic)
        self._lanes.accept(batch, partition, size, _now() + self._limits.delivery_timeout)
        self._supervisor.wake()

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait for all outcomes; give up by "shutdown" after ``timeout`` seconds."""
        if await self._space.wait_empty(timeout):
            return
        # The producer must not publish what is reported as failed.
        was_sent = self._supervisor.seal("flush ran out of time")
        self._lanes.give_up_all(terms.SHUTDOWN, was_sent)
        self._losses.write()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then end within one more second."""
        if self._closed:
            return
        self._closed = True
        self._space.close()
        self._supervisor.closing()
        await self.flush(timeout)
        self._losses.write()
        if self._timer is not None:
            self._timer.cancel()
        await self._supervisor.close()

    def _tick(self) -> None:
        """Enforce the deadlines, independently of the supervisor, whatever fails."""
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        now = _now()
        for enforce in (self._supervisor.check, self._lanes.expire, self._losses.write_in_time):
            try:
                enforce(now)
            except Exception as err:
                log.exception("kafka_sink_fault")
                self._fault = self._fault or f"{self._cluster.url}: {err!r}"


def _now() -> float:
    return asyncio.get_running_loop().time()

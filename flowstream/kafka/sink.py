"""The Kafka sink: acknowledged by all replicas, idempotent, never blocked by a broker.

The lanes keep every accepted record until it has an outcome; one supervisor
task publishes from them, with one producer at a time. A producer is given up
when one of its partitions is poisoned (after a refused batch, unless it was
refused for its size, the broker refuses all later ones) or gone, when the broker
does not know its state, or when it has had no answer for long. Its successor
sends again whatever was not acknowledged. Such a record may be in the topic
twice, with the same ``seq``.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from flowstream.accounting import terms
from flowstream.delivery.space import Space
from flowstream.kafka.cluster import Cluster, name_of
from flowstream.kafka.lanes import RECORD_OVERHEAD, Lanes
from flowstream.kafka.limits import Limits
from flowstream.kafka.losses import LossLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.kafka.lanes import Flight, Lane
    from flowstream.kafka.producer import Producer
    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import MessageBatch

log = structlog.get_logger(__name__)

# Seconds: between checks of the deadlines, for an orderly end.
_TICK = 0.25
_END_TIMEOUT = 1.0
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
# The broker wrote nothing. After any other error it may have: aiokafka repeats requests
# that were not answered, and tells only of the last one.
_REFUSED = (
    ClusterAuthorizationFailedError,
    TopicAuthorizationFailedError,
)


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
        self.fault: str | None = None
        self._outcomes = outcomes
        self._limits = limits or Limits()
        self._cluster = Cluster(
            settings, self._limits, partitions=partitions, topic_settings=topic_settings or {}
        )
        self._space = Space(self._limits.in_flight_bytes)
        # A quarter: flights that grow by an eighth stay well below the timeout.
        self._lanes = Lanes(outcomes, self._space, prompt=self._limits.request_timeout / 4)
        self._topics: tuple[str, ...] = ()
        self._producer: Producer | None = None
        self._closed = False
        self._supervisor: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakeup = asyncio.Event()
        # Why the current producer must be given up; None while it works.
        self._trouble: str | None = None
        self._last_answer = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self._losses = LossLog(self._lanes)

    def prepare(self, topics: Sequence[str]) -> None:
        """Do nothing: connecting needs no privilege."""

    def load(self) -> None:
        """Do nothing: everything is imported already."""

    async def start(self, topics: Sequence[str]) -> None:
        """Wait for the broker and create missing topics; ``SinkError`` when that fails."""
        self._topics = tuple(topics)
        self._producer = await self._cluster.connect(topics)
        self._supervisor = asyncio.create_task(self._supervise(self._producer), name="kafka-sink")
        self._supervisor.add_done_callback(self._supervision_ended)
        # A task that is cancelled before its first step would not end its producer.
        await asyncio.sleep(0)
        self._keep(asyncio.create_task(self._cluster.advise(), name="kafka-sink-advice"))
        self._tick()

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``, as last seen."""
        if self._producer is None:
            raise KeyError(topic)
        return self._producer.partitions(topic)

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
        self._wakeup.set()

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait for all outcomes; give up by "shutdown" after ``timeout`` seconds."""
        if await self._space.wait_empty(timeout) or self._producer is None:
            return
        # The producer must not publish what is reported as failed.
        self._producer.seal()
        self._give_up("flush ran out of time")
        self._lanes.give_up_all(terms.SHUTDOWN, self._producer.was_sent)
        self._losses.write()

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then end within one more second."""
        if self._closed:
            return
        self._closed = True
        self._space.close()
        await self.flush(timeout)
        self._losses.write()
        if self._timer is not None:
            self._timer.cancel()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor], timeout=_END_TIMEOUT / 2)
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=_END_TIMEOUT / 2)
            for task in late:
                task.cancel()
            # One round of the loop delivers the cancellation.
            await asyncio.sleep(0)

    async def _supervise(self, producer: Producer) -> None:
        """Publish with one producer at a time, until cancelled."""
        while True:
            try:
                await self._publish(producer)
                await self._let_land()
            except Exception as err:
                # A bug: accepted records must not wait for a task that has ended.
                log.exception("kafka_sink_fault")
                self._give_up(repr(err))
            finally:
                self._end(producer)
            self._producer = producer = await self._cluster.reconnect()
            moved = self._lanes.fit({topic: self.partitions(topic) for topic in self._topics})
            if moved:
                log.warning("kafka_records_moved", records=moved, reason="fewer partitions")

    def _supervision_ended(self, task: asyncio.Task[None]) -> None:
        """Without a supervisor nothing is published any more: that ends a run."""
        if self._closed:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        log.error("kafka_sink_fault", exc_info=error)
        self.fault = f"{self._cluster.url}: publishing has ended: {error!r}"

    async def _publish(self, producer: Producer) -> None:
        """Keep every partition in flight; return when there is trouble."""
        self._trouble = None
        while not self._in_trouble():
            self._wakeup.clear()
            for lane in self._lanes:
                if lane.waiting and lane.flight is None and not self._in_trouble():
                    await self._launch(producer, lane)
            await self._wakeup.wait()

    async def _launch(self, producer: Producer, lane: Lane) -> None:
        try:
            builder = producer.create_batch()
            flight = lane.launch(builder, _now())
            future = await producer.send_batch(builder, lane.topic, lane.partition)
        except Exception as err:
            if not isinstance(err, KafkaError):
                log.exception("kafka_sink_fault")
            lane.recall(in_doubt=False)
            self._lanes.postpone(lane)
            self._give_up(name_of(err))
            return
        future.add_done_callback(partial(self._landed, producer, lane, flight))
        # Packing takes milliseconds: give way to the producer and the rest of the agent.
        await asyncio.sleep(0)

    def _landed(
        self, producer: Producer, lane: Lane, flight: Flight, future: asyncio.Future[object]
    ) -> None:
        error = None if future.cancelled() else future.exception()
        if lane.flight is not flight or future.cancelled():
            return
        self._last_answer = _now()
        self._wakeup.set()
        if error is None:
            self._lanes.acknowledge(lane, self._last_answer)
        elif isinstance(error, _TOO_LARGE):
            producer.withdraw(lane.topic, lane.partition, len(flight))
            self._lanes.refuse_size(lane)
        elif isinstance(error, InvalidTimestampError):
            producer.withdraw(lane.topic, lane.partition, len(flight))
            self._lanes.refuse_times(lane)
        else:
            refused = isinstance(error, _REFUSED)
            sent = producer.was_sent(lane.topic, lane.partition)
            lane.recall(in_doubt=sent and not refused)
            self._give_up(name_of(error))

    def _give_up(self, trouble: str) -> None:
        self._trouble = self._trouble or trouble
        self._wakeup.set()

    def _in_trouble(self) -> bool:
        return self._trouble is not None

    async def _let_land(self) -> None:
        """Wait for answers to the other flights, for as long as the broker gives any."""
        since = _now()
        with contextlib.suppress(TimeoutError):
            while self._lanes.in_flight():
                self._wakeup.clear()
                async with asyncio.timeout_at(max(since, self._last_answer) + self._limits.grace):
                    await self._wakeup.wait()

    def _end(self, producer: Producer) -> None:
        producer.seal()
        self._lanes.recall(producer.was_sent)
        if not self._closed:
            log.warning("kafka_producer_given_up", reason=self._trouble, to_send=len(self._lanes))
        task = asyncio.create_task(producer.abandon(), name="kafka-sink-abandon")
        self._keep(task)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("kafka_producer_end_fault", error=repr(task.exception()))

    def _tick(self) -> None:
        """Enforce the deadlines, independently of the supervisor, whatever fails."""
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        now = _now()
        for enforce in (self._check_flights, self._lanes.expire, self._losses.write_in_time):
            try:
                enforce(now)
            except Exception as err:
                log.exception("kafka_sink_fault")
                self.fault = self.fault or f"{self._cluster.url}: {err!r}"

    def _check_flights(self, now: float) -> None:
        for lane in self._lanes:
            if lane.flight is not None:
                self._check_flight(lane, lane.flight, now)

    def _check_flight(self, lane: Lane, flight: Flight, now: float) -> None:
        age = now - flight.launched
        if lane.partition >= self.partitions(lane.topic):
            self._give_up("partition gone")
        elif flight.chunks[0].deadline <= now and age > self._limits.request_timeout:
            self._give_up("delivery timeout")
        elif min(age, now - self._last_answer) > self._limits.stuck_timeout:
            self._give_up("no answer")


def _now() -> float:
    return asyncio.get_running_loop().time()

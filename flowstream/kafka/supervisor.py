"""Publishes the records of a Kafka sink's lanes, with one producer at a time.

A producer is given up when one of its partitions is poisoned (after an error
that is no lasting refusal, the broker refuses all later batches) or gone, when the
broker does not know its state, or when it has had no answer for long. Its successor
sends again whatever was not acknowledged. Such a record may be in the topic
twice, with the same ``seq``.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import KafkaError

from flowstream.kafka.admin import words
from flowstream.kafka.cluster import name_of
from flowstream.kafka.refusals import ClosedTopics, refusal_of, refusal_of_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowstream.kafka.cluster import Cluster
    from flowstream.kafka.lane import Flight, Lane
    from flowstream.kafka.lanes import Lanes
    from flowstream.kafka.limits import Limits
    from flowstream.kafka.producer import Producer

log = structlog.get_logger(__name__)

# Seconds for an orderly end.
_END_TIMEOUT = 1.0


class Supervisor:
    """Owner of the producer in use; its task runs from ``start`` to ``close``."""

    def __init__(self, cluster: Cluster, lanes: Lanes, limits: Limits) -> None:
        self.fault: str | None = None
        self._cluster = cluster
        self._lanes = lanes
        self._limits = limits
        self._producer: Producer | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._wakeup = asyncio.Event()
        # Why the current producer must be given up; None while it works.
        self._trouble: str | None = None
        self._last_answer = 0.0
        self._closed_topics = ClosedTopics()
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, producer: Producer | None) -> None:
        """Publish with ``producer``; None: connect one first, however long it takes."""
        self._producer = producer
        self._task = asyncio.create_task(self._supervise(), name="kafka-sink")
        self._task.add_done_callback(self._supervision_ended)
        # A task that is cancelled before its first step would not end its producer.
        await asyncio.sleep(0)

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``, as last seen or else as configured."""
        if self._producer is None:
            return self._cluster.wanted(topic)
        return self._producer.partitions(topic)

    def acknowledging(self, now: float) -> bool:
        """Say whether the producer works and has answers; see ``KafkaSink``."""
        if self._producer is None or self._in_trouble():
            return False
        oldest = min((lane.flight.launched for lane in self._lanes if lane.flight), default=now)
        return now - max(oldest, self._last_answer) <= self._limits.answer_timeout

    @property
    def refusals(self) -> frozenset[str]:
        """Causes for which topics refuse everything, as far as is known."""
        return self._closed_topics.causes

    def wake(self) -> None:
        """Look for records to publish."""
        self._wakeup.set()

    def seal(self, reason: str) -> Callable[[str, int], bool]:
        """Give up the producer and send nothing more with it.

        Returns whether the flight of a topic and partition may have been sent.
        """
        self._give_up(reason)
        if self._producer is None:
            return lambda *_: False
        self._producer.seal()
        return self._producer.was_sent

    def closing(self) -> None:
        """Prepare for the end: from now on it is no fault."""
        self._closed = True

    async def close(self) -> None:
        """End within a second."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_END_TIMEOUT / 2)
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=_END_TIMEOUT / 2)
            for task in late:
                task.cancel()
            # One round of the loop delivers the cancellation.
            await asyncio.sleep(0)

    def check(self, now: float) -> None:
        """Give up the producer if it has ended, or a flight has had no answer for too long."""
        if self._producer is None or self._in_trouble():
            return
        if self._producer.ended:
            self._give_up("a task of aiokafka has ended")
        for lane in self._lanes:
            if lane.flight is not None:
                self._check_flight(self._producer, lane, lane.flight, now)

    async def _supervise(self) -> None:
        """Publish with one producer at a time, until cancelled."""
        producer = self._producer or await self._connect(self._cluster.reach())
        self._keep(self._cluster.advise(), "kafka-sink-advice")
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
            producer = await self._connect(self._cluster.reconnect())

    async def _connect(self, connecting: Coroutine[None, None, Producer]) -> Producer:
        producer = self._producer = await connecting
        for topic, error in producer.refused.items():
            self._refuse_topic(topic, error)
        moved = self._lanes.fit({topic: self.partitions(topic) for topic in self._cluster.topics})
        if moved:
            log.warning("kafka_records_moved", records=moved, reason="fewer partitions")
        return producer

    def _refuse_topic(self, topic: str, error: KafkaError) -> None:
        refusal = refusal_of_topic(error)
        self._lanes.explain(refusal.cause, f"topic {topic}: {words(error)}")
        self._closed_topics.close(topic, refusal.cause, _now())

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
                if not lane.waiting or lane.flight is not None or self._in_trouble():
                    continue
                if cause := self._closed_topics.cause(lane.topic, _now()):
                    self._lanes.close(lane, cause)
                else:
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
            self._closed_topics.open(lane.topic)
            self._lanes.acknowledge(lane, self._last_answer)
            return
        code, text = producer.answer(lane.topic, lane.partition)
        refusal = refusal_of(error, code)
        if refusal is None:
            # The broker may have written it: aiokafka repeats requests that were not
            # answered, and tells only of the last one.
            lane.recall(in_doubt=producer.was_sent(lane.topic, lane.partition))
            self._give_up(name_of(error))
            return
        if not producer.withdraw(lane.topic, lane.partition, len(flight)):
            flight.doubt()
            self._give_up(f"repeated and then refused: {name_of(error)}")
        if refusal.closes:
            self._closed_topics.close(lane.topic, refusal.cause, self._last_answer)
        self._lanes.explain(refusal.cause, text)
        self._lanes.refuse(lane, refusal)

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
        self._keep(producer.abandon(), "kafka-sink-abandon")

    def _keep(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("kafka_producer_end_fault", error=repr(task.exception()))

    def _check_flight(self, producer: Producer, lane: Lane, flight: Flight, now: float) -> None:
        age = now - flight.launched
        if lane.partition >= producer.partitions(lane.topic):
            self._give_up("partition gone")
        elif age > self._limits.grace and not producer.shows(lane.topic):
            self._give_up("topic gone")
        elif flight.chunks[0].deadline <= now and age > self._limits.request_timeout:
            self._give_up("delivery timeout")
        elif min(age, now - self._last_answer) > self._limits.stuck_timeout:
            self._give_up("no answer")


def _now() -> float:
    return asyncio.get_running_loop().time()

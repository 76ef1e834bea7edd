"""The Kafka sink: acknowledged by all replicas, idempotent, and never hung on a broker.

The ledger keeps every accepted record until it has an outcome; one supervisor
task publishes from it with one producer after the other. A producer is given up
when a partition of it is poisoned (one refused batch makes the broker refuse
all later ones), when its state is unknown to the broker, or when nothing was
answered for long; what it had not got acknowledged is then sent again by its
successor. Such a record may be there twice, with the same ``seq``.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from flowstream.errors import SinkError
from flowstream.sink.ledger import RECORD_OVERHEAD, Ledger
from flowstream.sink.limits import Limits
from flowstream.sink.producer import Producer, quieten_aiokafka, why_unreachable
from flowstream.sink.space import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.batch import EncodedBatch
    from flowstream.sink import Outcomes
    from flowstream.sink.ledger import Flight, Lane

log = structlog.get_logger(__name__)

# Seconds: between looks at the deadlines, between logs of what expired, for an orderly end.
_TICK = 0.25
_LOG_INTERVAL = 10.0
_END_TIMEOUT = 1.0
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaSink:
    """Publishes to the cluster at ``addresses`` (HOST:PORT); see ``flowstream.sink.Sink``.

    Topics that it creates get ``topic_settings``.
    """

    fault = None

    def __init__(
        self,
        addresses: Sequence[str],
        outcomes: Outcomes,
        *,
        partitions: int | Mapping[str, int],
        limits: Limits | None = None,
        topic_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._outcomes = outcomes
        self._wanted, self._topic_settings = partitions, topic_settings or {}
        self._limits = limits or Limits()
        self._space = Space(self._limits.in_flight_bytes)
        self._ledger = Ledger(outcomes, self._space)
        self._topics: tuple[str, ...] = ()
        self._partitions: dict[str, int] = {}
        self._closed = False
        self._supervisor: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakeup = asyncio.Event()
        # Why the present producer must be given up; None while it works.
        self._trouble: str | None = None
        self._last_answer = 0.0
        self._pause = self._limits.backoff[0]
        self._ending: set[asyncio.Task[None]] = set()
        self._expired = 0
        self._expired_logged = 0.0

    def prepare(self, topics: Sequence[str]) -> None:
        """Nothing: connecting needs no privilege."""

    async def start(self, topics: Sequence[str]) -> None:
        """Wait for the broker, create missing topics; ``SinkError`` when that cannot be."""
        quieten_aiokafka()
        self._topics = tuple(topics)
        producer = await self._first_connect()
        self._supervisor = asyncio.create_task(self._supervise(producer), name="kafka-sink")
        # A task that is cancelled before its first step would not end its producer.
        await asyncio.sleep(0)
        self._tick()

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic`` when last connected."""
        return self._partitions[topic]

    async def send(self, batch: EncodedBatch) -> None:
        """Accept ``batch``, waiting while ``in_flight_bytes`` are unsettled."""
        if not len(batch):
            return
        size = sum(map(len, batch.values)) + sum(map(len, batch.keys))
        size += RECORD_OVERHEAD * len(batch)
        if not await self._space.take(size):
            self._outcomes.failed(batch, slice(0, len(batch)), "shutdown")
            return
        self._ledger.accept(batch, size, _now() + self._limits.delivery_timeout)
        self._wakeup.set()

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait for all outcomes; what has none after ``timeout`` seconds is failed."""
        await self._flush(timeout, "shutdown")

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then end within a second more; the unsettled fails by "shutdown"."""
        if self._closed:
            return
        self._closed = True
        self._space.close()
        await self._flush(timeout, "shutdown")
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

    async def _flush(self, timeout: float, cause: str) -> None:  # noqa: ASYNC109 - as above
        if await self._space.wait_empty(timeout):
            return
        # The producer may still hold some of it: it must not publish what is reported failed.
        self._give_up("flush ran out of time")
        failed = self._ledger.fail_all(cause)
        log.warning("kafka_records_failed", cause=cause, records=failed)

    async def _first_connect(self) -> Producer:
        last: Exception | None = None
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                while True:
                    try:
                        return await self._connect()
                    except SinkError:
                        raise
                    except Exception as err:  # noqa: BLE001 - whatever a listener makes of aiokafka
                        last = err
                    await asyncio.sleep(self._limits.backoff[0])
        except TimeoutError:
            why = await why_unreachable(self._addresses)
            raise SinkError(
                f"no Kafka broker after {self._limits.connect_timeout:g} s: {why}; "
                "start one there or correct the address"
            ) from last

    async def _connect(self) -> Producer:
        producer = await Producer.connect(
            self._addresses,
            self._topics,
            partitions=self._wanted,
            topic_settings=self._topic_settings,
            batch_bytes=self._limits.batch_bytes,
            request_timeout=self._limits.request_timeout,
        )
        self._partitions = producer.partitions
        return producer

    async def _supervise(self, producer: Producer) -> None:
        """Publish with one producer after the other, until cancelled."""
        while True:
            try:
                await self._publish(producer)
                await self._let_land()
            except Exception as err:
                log.exception("kafka_sink_fault")
                self._give_up(repr(err))
            finally:
                self._end(producer)
            producer = await self._reconnect()

    async def _publish(self, producer: Producer) -> None:
        """Keep every partition's flight in the air; return when there is trouble."""
        self._trouble = None
        while True:
            self._wakeup.clear()
            for lane in self._ledger:
                if self._in_trouble():
                    return
                if lane.waiting and lane.flight is None:
                    await self._launch(producer, lane)
            await self._wakeup.wait()

    async def _launch(self, producer: Producer, lane: Lane) -> None:
        builder = producer.create_batch()
        flight = lane.launch(builder, _now())
        try:
            future = await producer.send_batch(builder, lane.topic, lane.partition)
        except KafkaError as err:
            self._give_up(_name(err))
            return
        future.add_done_callback(partial(self._landed, lane, flight))
        # Packing takes milliseconds: the producer and the rest of the agent get their turn.
        await asyncio.sleep(0)

    def _landed(self, lane: Lane, flight: Flight, future: asyncio.Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if lane.flight is not flight or future.cancelled():
            return
        self._last_answer = _now()
        self._wakeup.set()
        if error is None:
            self._pause = self._limits.backoff[0]
            self._ledger.acknowledge(lane)
            return
        if isinstance(error, _TOO_LARGE):
            self._pause = 0.0
            self._ledger.refuse_size(lane)
        else:
            lane.recall()
        self._give_up(_name(error))

    def _give_up(self, trouble: str) -> None:
        self._trouble = self._trouble or trouble
        self._wakeup.set()

    def _in_trouble(self) -> bool:
        return self._trouble is not None

    async def _let_land(self) -> None:
        """While the broker answers, let it do so for the partitions that are well."""
        with contextlib.suppress(TimeoutError):
            while any(self._ledger.in_the_air()):
                self._wakeup.clear()
                async with asyncio.timeout_at(self._last_answer + self._limits.grace):
                    await self._wakeup.wait()

    def _end(self, producer: Producer) -> None:
        self._ledger.recall()
        if not self._closed:
            log.warning(
                "kafka_producer_given_up", reason=self._trouble, to_send=self._ledger.records()
            )
        task = asyncio.create_task(producer.abandon(), name="kafka-sink-abandon")
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("kafka_producer_end_fault", error=repr(task.exception()))

    async def _reconnect(self) -> Producer:
        since = _now()
        lost = False
        while True:
            await asyncio.sleep(self._pause)
            first, longest = self._limits.backoff
            self._pause = min(max(first, 2 * self._pause), longest)
            try:
                async with asyncio.timeout(self._limits.connect_timeout):
                    producer = await self._connect()
            except Exception as err:  # noqa: BLE001 - whatever a broken broker makes of aiokafka
                if not lost:
                    log.warning("kafka_unreachable", error=_name(err), to=self._addresses)
                lost = True
                continue
            if lost:
                log.info("kafka_reachable", after_s=round(_now() - since, 1))
            return producer

    def _tick(self) -> None:
        """Look after the deadlines, whatever the supervisor waits for."""
        now = _now()
        for flight in self._ledger.in_the_air():
            if flight.chunks[0].deadline <= now:
                self._give_up("delivery timeout")
            elif now - max(flight.launched, self._last_answer) > self._limits.stuck_timeout:
                self._give_up("no answer")
        self._expired += self._ledger.expire(now)
        if self._expired and now - self._expired_logged > _LOG_INTERVAL:
            log.warning("kafka_records_failed", cause="delivery_timeout", records=self._expired)
            self._expired, self._expired_logged = 0, now
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _name(err: BaseException) -> str:
    """Name the error in one line, without the request that it belongs to."""
    if isinstance(err, BrokerResponseError):
        return type(err).__name__
    return str(err) if isinstance(err, KafkaError) else repr(err)

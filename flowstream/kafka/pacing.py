"""Paces the requests that aiokafka repeats without a pause, or always after the same pause.

A cluster in trouble has many clients: each of them asks less and less often, and no two
at the same moments. Only this module, ``kafka.producer``, ``kafka.client`` and
``kafka.connections`` use internals of aiokafka.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiokafka.structs import TopicPartition

from flowstream.waiting import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer
    from aiokafka.client import AIOKafkaClient
    from aiokafka.producer.message_accumulator import MessageBatch

# Seconds: the first pause between requests for metadata and the longest; without any
# for the last time, the next ones are free again.
_METADATA_PAUSES = (0.1, 2.0)
_METADATA_QUIET = 5.0
# What a client asks while it starts.
_METADATA_FREE = 4

# REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS_AFTER_APPEND (Errors.java).
_MAYBE_WRITTEN = (7, 20)

_Key = TypeVar("_Key")


def pace_metadata(client: AIOKafkaClient) -> None:
    """Bound the client's requests for metadata: a few at once, then one or two a second.

    While a partition has no leader, aiokafka's producers and consumers ask as fast as
    answers come.
    """
    update = client._metadata_update  # noqa: SLF001 - see the module
    pauses, free, last = Pauses(*_METADATA_PAUSES), _METADATA_FREE, -math.inf

    async def paced(*arguments: Any) -> object:
        nonlocal free, last
        now = asyncio.get_running_loop().time()
        if now - last > _METADATA_QUIET:
            free = _METADATA_FREE
            pauses.restart()
        if free:
            free -= 1
        else:
            await pauses.take()
        last = asyncio.get_running_loop().time()
        return await update(*arguments)

    client._metadata_update = paced  # noqa: SLF001


class Retries:
    """Decides when a producer sends a batch again, in aiokafka's place.

    aiokafka repeats a refused request after the same pause each time, and serves no other
    partition of that node until then; while a partition has no leader, it serves others
    only between two requests for metadata. Here a partition rests after a refusal and
    a node after a failed request, the longer the more often; all others go on.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        backoff: tuple[float, float],
        was_sent: Callable[[str, int], bool],
    ) -> None:
        self._client = producer.client
        self._accumulator = producer._message_accumulator  # noqa: SLF001 - see the module
        self._nodes = _Rests[int](backoff, self._wake)
        self._partitions = _Rests[TopicPartition](backoff, self._wake)
        self._was_sent = was_sent
        self._answers: dict[TopicPartition, tuple[int, str]] = {}
        self._maybe_written: set[TopicPartition] = set()
        self._drain = self._accumulator.drain_by_nodes
        self._accumulator.drain_by_nodes = self._drain_rested
        self._reenqueue = self._accumulator.reenqueue
        self._accumulator.reenqueue = self._rest
        self._update = self._client._metadata_update  # noqa: SLF001
        self._client._metadata_update = self._update_and_wake  # noqa: SLF001
        self._client._maybe_wait_metadata = _go_on  # noqa: SLF001
        producer._sender._retry_backoff = 0  # noqa: SLF001

    def request_failed(self, node_id: int) -> None:
        """Let the node rest."""
        self._nodes.begin(node_id)

    def answered(self, node_id: int, answer: Any) -> None:
        """Forget the node's failures, and note its answer to a request to write."""
        self._nodes.forget(node_id)
        for topic, partitions in answer.topics:
            for partition, code, *others in partitions:
                # The broker's text is the last field, from version 8 on.
                text = others[-1] if others and isinstance(others[-1], str) else ""
                self._answers[TopicPartition(topic, partition)] = code, text

    def begin(self, partition: TopicPartition) -> None:
        """Begin with a new batch of the partition."""
        self._answers.pop(partition, None)
        self._maybe_written.discard(partition)

    def answer(self, partition: TopicPartition) -> tuple[int, str]:
        """Return the error code of the last answer to its batch, and the broker's text."""
        return self._answers.get(partition, (0, ""))

    def may_be_written(self, partition: TopicPartition) -> bool:
        """Say whether an attempt before the last one may have written its batch."""
        return partition in self._maybe_written

    def settled(self, partition: TopicPartition) -> None:
        """Forget the partition's refusals."""
        self._partitions.forget(partition)

    def _drain_rested(
        self,
        ignore_nodes: set[int],
        muted_partitions: frozenset[TopicPartition] = frozenset(),
    ) -> tuple[object, bool]:
        batches, leaderless = self._drain(
            ignore_nodes=self._nodes.resting | ignore_nodes,
            muted_partitions=self._partitions.resting | muted_partitions,
        )
        if leaderless:
            # The sender need not wait: the update wakes it.
            self._client.force_metadata_update()
        return batches, False

    def _rest(self, batch: MessageBatch) -> None:
        self._reenqueue(batch)
        code, _ = self._answers.pop(batch.tp, (None, ""))
        if code in _MAYBE_WRITTEN or (code is None and self._was_sent(*batch.tp)):
            self._maybe_written.add(batch.tp)
        if self._client.cluster.leader_for_partition(batch.tp) not in self._nodes.resting:
            self._partitions.begin(batch.tp)

    async def _update_and_wake(self, *arguments: Any) -> object:
        try:
            return await self._update(*arguments)
        finally:
            self._wake()

    def _wake(self) -> None:
        """Make the sender look for batches."""
        # The name before aiokafka 0.14 was data_waiter.
        waiter = getattr(self._accumulator, "waiter", None) or self._accumulator.data_waiter
        if not (waiting := waiter()).done():
            waiting.set_result(None)


class _Rests(Generic[_Key]):
    """Nodes or partitions that are left alone for a while; calls ``wake`` after each rest."""

    def __init__(self, backoff: tuple[float, float], wake: Callable[[], None]) -> None:
        self.resting: set[_Key] = set()
        self._backoff, self._wake = backoff, wake
        self._pauses: dict[_Key, Pauses] = {}

    def begin(self, key: _Key) -> None:
        """Begin a rest, longer than the one before unless ``forget`` was called since."""
        self.resting.add(key)
        pauses = self._pauses.setdefault(key, Pauses(*self._backoff))
        asyncio.get_running_loop().call_later(pauses.length(), self._end, key)

    def forget(self, key: _Key) -> None:
        """Begin with short rests again."""
        self._pauses.pop(key, None)

    def _end(self, key: _Key) -> None:
        self.resting.discard(key)
        self._wake()


async def _go_on() -> None:
    """Instead of waiting for metadata: what needs it rests."""

"""A double of AIOKafkaConsumer over messages in memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    UnknownTopicOrPartitionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowstream.messages import Message


class ConsumerDouble:
    """Reads ``messages`` as an AIOKafkaConsumer reads topics, from the beginning.

    It has the same methods, records, offsets and errors as far as iteration needs
    them: ``async for``, getone, getmany, subscribe, assign, assignment, seek,
    position, pause, commit, start, stop, ``async with``. Partitions are interleaved
    by their messages' timestamps, so every run is the same. After the last message
    ``async for`` ends, ``getone`` raises ConsumerStoppedError and ``getmany`` returns
    nothing; with ``wait`` the first two wait for ``stop``, as with a broker. Topics
    other than those of the messages and ``empty`` raise
    UnknownTopicOrPartitionError.
    """

    def __init__(
        self,
        *topics: str,
        messages: Iterable[Message],
        empty: Iterable[str] = (),
        key_deserializer: Callable[[Any], Any] | None = None,
        value_deserializer: Callable[[Any], Any] | None = None,
        wait: bool = False,
    ) -> None:
        self._key, self._value, self._wait = key_deserializer, value_deserializer, wait
        self._messages: dict[TopicPartition, list[Message]] = {
            TopicPartition(topic, 0): [] for topic in empty
        }
        for message in messages:
            place = TopicPartition(message.topic, message.partition)
            of_partition = self._messages.setdefault(place, [])
            of_partition.append(message._replace(offset=len(of_partition)))
        self._subscription: frozenset[str] = frozenset()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, int] = {}
        self._started = self._stopped = False
        # Set by everything that may end a wait.
        self._changed = asyncio.Event()
        if topics:
            self.subscribe(topics)

    async def start(self) -> None:
        """Begin; nothing can be read before."""
        self._check_topics()
        self._started = True

    async def stop(self) -> None:
        """End all iterations; harmless twice."""
        self._stopped = True
        self._changed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __aiter__(self) -> Self:
        self._check()
        return self

    async def __anext__(self) -> ConsumerRecord[Any, Any]:
        try:
            return await self.getone()
        except ConsumerStoppedError:
            raise StopAsyncIteration from None

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord[Any, Any]:
        """Return the next record; ConsumerStoppedError if stopped or at the end (see above)."""
        self._check()
        # Give way to other tasks: nothing here waits.
        await asyncio.sleep(0)
        while (place := self._next(partitions)) is None:
            self._check()
            if not self._wait:
                raise ConsumerStoppedError
            self._changed.clear()
            await self._changed.wait()
        self._check()
        return self._take(place)

    async def getmany(
        self,
        *partitions: TopicPartition,
        timeout_ms: int = 0,
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        """Return up to ``max_records`` records; none at the end (``wait``: after the timeout)."""
        self._check()
        if max_records is not None and (not isinstance(max_records, int) or max_records < 1):
            raise ValueError("`max_records` must be a positive Integer")
        await asyncio.sleep(0)
        if self._wait and not self._stopped and self._next(partitions) is None:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_ms / 1000)
        self._check()
        found: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
        count = 0
        while max_records is None or count < max_records:
            place = self._next(partitions)
            if place is None:
                break
            found.setdefault(place, []).append(self._take(place))
            count += 1
        return found

    def subscribe(self, topics: Iterable[str]) -> None:
        """Read all partitions of these topics."""
        if self._positions and not self._subscription:
            raise IllegalStateError("Subscription to topics and to partitions exclude each other")
        self._subscription = frozenset(topics)
        self._set([place for place in self._messages if place.topic in self._subscription])
        if self._started:
            self._check_topics()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions."""
        if self._subscription:
            raise IllegalStateError("Subscription to topics and to partitions exclude each other")
        self._set(list(partitions))
        if self._started:
            self._check_topics()

    def unsubscribe(self) -> None:
        """Read nothing."""
        self._subscription = frozenset()
        self._set([])

    def subscription(self) -> frozenset[str]:
        """Return the subscribed topics."""
        return self._subscription

    def assignment(self) -> set[TopicPartition]:
        """Return the assigned partitions."""
        return set(self._positions)

    async def topics(self) -> set[str]:
        """Return all topics."""
        return {place.topic for place in self._messages}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions of a topic, None if it does not exist."""
        return {place.partition for place in self._messages if place.topic == topic} or None

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue at ``offset``."""
        if not isinstance(offset, int) or offset < 0:
            raise ValueError("Offset must be a positive integer")
        self._check_assigned(partition)
        self._positions[partition] = offset
        self._changed.set()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Go to the first record of these partitions, by default of all."""
        for partition in partitions or self.assignment():
            self.seek(partition, 0)
        return True

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        """Go behind the last record of these partitions, by default of all."""
        for partition in partitions or self.assignment():
            self.seek(partition, self._end(partition))
        return True

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record."""
        self._check_assigned(partition)
        return self._positions[partition]

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return 0 for every partition."""
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of every partition."""
        return {partition: self._end(partition) for partition in partitions}

    def highwater(self, partition: TopicPartition) -> int:
        """Return the offset behind the last record."""
        self._check_assigned(partition)
        return self._end(partition)

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop reading these partitions until ``resume``."""
        for partition in partitions:
            self._check_assigned(partition)
            self._paused.add(partition)

    def resume(self, *partitions: TopicPartition) -> None:
        """Read these partitions again."""
        for partition in partitions:
            self._check_assigned(partition)
            self._paused.discard(partition)
            self._changed.set()

    def paused(self) -> set[TopicPartition]:
        """Return the paused partitions."""
        return set(self._paused)

    async def commit(self, offsets: dict[TopicPartition, Any] | None = None) -> None:
        """Store these offsets, or the positions; an offset may be (offset, metadata)."""
        for partition, offset in (offsets or self._positions).items():
            self._check_assigned(partition)
            self._committed[partition] = offset if isinstance(offset, int) else offset[0]

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the last committed offset, None without one."""
        return self._committed.get(partition)

    def _set(self, partitions: list[TopicPartition]) -> None:
        self._positions = {place: self._committed.get(place, 0) for place in partitions}
        self._paused &= set(partitions)
        self._changed.set()

    def _check(self) -> None:
        if self._stopped or not self._started:
            raise ConsumerStoppedError

    def _check_topics(self) -> None:
        """Raise as the real consumer does at its start; later it would wait for the topic."""
        wanted = self._subscription | {place.topic for place in self._positions}
        if unknown := wanted - {place.topic for place in self._messages}:
            raise UnknownTopicOrPartitionError(f"no topic {', '.join(sorted(unknown))}")

    def _check_assigned(self, partition: TopicPartition) -> None:
        if partition not in self._positions:
            raise IllegalStateError(f"Partition {partition} is not assigned")

    def _end(self, partition: TopicPartition) -> int:
        return len(self._messages.get(partition, ()))

    def _next(self, partitions: Iterable[TopicPartition]) -> TopicPartition | None:
        """Return the partition with the earliest next record."""
        readable = [
            place
            for place in partitions or self._positions
            if place not in self._paused and self._positions[place] < self._end(place)
        ]
        return min(readable, key=self._when, default=None)

    def _when(self, place: TopicPartition) -> tuple[int, TopicPartition]:
        return self._messages[place][self._positions[place]].timestamp_ms, place

    def _take(self, place: TopicPartition) -> ConsumerRecord[Any, Any]:
        message = self._messages[place][self._positions[place]]
        self._positions[place] += 1
        key, value = message.key, None if message.is_null else message.value
        return ConsumerRecord(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp=message.timestamp_ms,
            timestamp_type=0,
            key=self._key(key) if self._key else key,
            value=self._value(value) if self._value else value,
            checksum=None,
            serialized_key_size=-1 if key is None else len(key),
            serialized_value_size=-1 if value is None else len(value),
            headers=message.headers,
        )

"""A double of AIOKafkaConsumer over topics in the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError
from aiokafka.util import commit_structure_validate

from flowstream.testing.membership import Membership
from flowstream.testing.settings import WITH_BROKER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiokafka.structs import OffsetAndTimestamp

    from flowstream.messages import Message

_Records = dict[TopicPartition, list[ConsumerRecord[Any, Any]]]


class ConsumerDouble(Membership):
    """Reads a DoubleCluster as an AIOKafkaConsumer reads a broker, from the beginning.

    It has the methods of AIOKafkaConsumer with their arguments, results and errors; a
    method that it lacks raises NotImplementedError. Partitions are interleaved by
    their messages' timestamps, so every run is the same. After the last message
    ``async for`` ends and ``getone`` raises ConsumerStoppedError; with ``wait`` they
    wait for ``stop``, as with a broker. Two mistakes that wait forever with a broker are
    errors: a topic that does not exist (UnknownTopicOrPartitionError), and reading
    without a subscription (IllegalStateError).
    """

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(AIOKafkaConsumer, name):
            raise NotImplementedError(
                f"the double of AIOKafkaConsumer has no {name}: {WITH_BROKER}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- reading -------------------------------------------------------------------------------

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
        while True:
            assignment = await self._settled()
            if message := assignment.next(partitions):
                return self._take(message)
            if not self._wait and assignment.is_at_end(partitions):
                raise ConsumerStoppedError
            await self._change()

    async def getmany(
        self,
        *partitions: TopicPartition,
        timeout_ms: int = 0,
        max_records: int | None = None,
    ) -> _Records:
        """Return up to ``max_records`` records; wait up to the timeout while there are none."""
        if max_records is not None and (not isinstance(max_records, int) or max_records < 1):
            raise ValueError("`max_records` must be a positive Integer")
        at_most = max_records or self._settings["max_poll_records"]
        deadline = self.loop.time() + timeout_ms / 1000
        while True:
            assignment = await self._settled()
            found: _Records = {}
            count = 0
            while count != at_most and (message := assignment.next(partitions)):
                place = TopicPartition(message.topic, message.partition)
                found.setdefault(place, []).append(self._take(message))
                count += 1
            if found or self.loop.time() >= deadline:
                return found
            await self._change(deadline - self.loop.time())
            if self._stopped:
                return {}

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop reading these partitions until ``resume``."""
        self._assigned(partitions).paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        """Read these partitions again."""
        self._assigned(partitions).paused.difference_update(partitions)
        self._changed.set()

    def paused(self) -> set[TopicPartition]:
        """Return the paused partitions."""
        return set(self._assignment.paused) if self._assignment else set()

    # --- positions -----------------------------------------------------------------------------

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue at ``offset``, or at the earliest record if it does not exist."""
        if not isinstance(offset, int) or offset < 0:
            raise ValueError("Offset must be a positive integer")
        self._assigned([partition]).positions[partition] = offset
        self._changed.set()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Go to the first record of these partitions, by default of all assigned ones."""
        for place in self._chosen(partitions):
            self.seek(place, 0)
        return True

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        """Go behind the last record of these partitions, by default of all assigned ones."""
        for place in self._chosen(partitions):
            self.seek(place, self._assigned([place]).end(place))
        return True

    async def seek_to_committed(
        self, *partitions: TopicPartition
    ) -> dict[TopicPartition, int | None]:
        """Go to the committed offsets and return them; partitions without one stay."""
        found = {place: await self.committed(place) for place in self._chosen(partitions)}
        for place, offset in found.items():
            # aiokafka stays for 0 as well.
            if offset:
                self.seek(place, offset)
        return found

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record."""
        return self._assigned([partition]).positions[partition]

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return 0 for every partition."""
        partitions = list(partitions)
        self._cluster.require_partitions(partitions)
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of every partition."""
        partitions = list(partitions)
        self._cluster.require_partitions(partitions)
        return {place: len(self._cluster.messages(place)) for place in partitions}

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return the first offset at or after each Unix time in ms, or None."""
        self._cluster.require_partitions(timestamps)
        for place, time_ms in timestamps.items():
            if time_ms < 0:
                raise ValueError(f"The target time for partition {place} cannot be negative")
        return {
            place: self._cluster.offset_at(place, int(time_ms))
            for place, time_ms in timestamps.items()
        }

    def highwater(self, partition: TopicPartition) -> int:
        """Return the offset behind the last record."""
        return self._assigned([partition]).end(partition)

    # --- commits -------------------------------------------------------------------------------

    async def commit(self, offsets: dict[TopicPartition, Any] | None = None) -> None:
        """Store these offsets, or the positions, for the group.

        CommitFailedError for assigned partitions while the group has members.
        """
        group = self._of_group()
        assignment = self._assigned([])
        if offsets is None:
            group.commit(self, assignment.positions)
            return
        stored = commit_structure_validate(offsets)
        assignment.check(stored)
        group.commit(self, {place: stored[place].offset for place in stored})

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's last committed offset, None without one."""
        group = self._of_group()
        self._cluster.require_partitions([partition])
        self._auto_commit_when_due()
        return group.committed.get(partition)

    def _chosen(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Return these partitions, or all that are assigned."""
        partitions = list(partitions)
        if not all(isinstance(place, TopicPartition) for place in partitions):
            raise TypeError("partitions must be TopicPartition instances")
        assigned = self._assigned(partitions).positions
        return partitions or list(assigned)

    def _take(self, message: Message) -> ConsumerRecord[Any, Any]:
        place = TopicPartition(message.topic, message.partition)
        key, value = message.key, None if message.is_null else message.value
        read_key, read_value = (
            self._settings[f"{part}_deserializer"] or _as_it_is for part in ("key", "value")
        )
        record: ConsumerRecord[Any, Any] = ConsumerRecord(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp=message.timestamp_ms,
            timestamp_type=0,
            key=read_key(key),
            value=read_value(value),
            checksum=None,
            serialized_key_size=-1 if key is None else len(key),
            serialized_value_size=-1 if value is None else len(value),
            headers=message.headers,
        )
        # Last: if a deserializer fails, the record is read again.
        self._assigned([place]).positions[place] = message.offset + 1
        return record


def _as_it_is(octets: bytes | None) -> bytes | None:
    return octets

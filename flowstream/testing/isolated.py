"""A consumer of a broker that sees the topics of one test only, under their recorded names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from aiokafka.structs import OffsetAndTimestamp

    from flowstream.testing.names import IsolatedNames

# Between checks for the ends of the partitions, while nothing arrives.
_POLL_MS = 100

_T = TypeVar("_T")


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Calls the user's listener with recorded names."""

    def __init__(self, listener: ConsumerRebalanceListener, names: IsolatedNames) -> None:
        self._listener, self._names = listener, names

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> Any:
        """Return the listener's answer, which aiokafka awaits."""
        return self._listener.on_partitions_revoked(set(map(self._names.recorded, revoked)))

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> Any:
        """Return the listener's answer, which aiokafka awaits."""
        return self._listener.on_partitions_assigned(set(map(self._names.recorded, assigned)))


class IsolatedConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """An AIOKafkaConsumer that takes and returns recorded names; see ``ConsumerDouble``.

    Names in the broker are accepted too. Other topics raise UnknownTopicOrPartitionError
    without a request to the broker. After the last message ``async for`` ends and
    ``getone`` raises ConsumerStoppedError, unless ``wait`` is set.
    """

    def __init__(
        self, *topics: str, names: IsolatedNames, wait: bool = False, **settings: Any
    ) -> None:
        self._names, self._wait = names, wait
        self._ends: dict[TopicPartition, int] = {}
        self._constructed_with = topics
        known = names.recorded_topics(map(names.topic, topics))
        super().__init__(*map(names.topic, known), **settings)

    async def start(self) -> None:
        """Start as AIOKafkaConsumer does; UnknownTopicOrPartitionError for other topics."""
        self._names.require_topics(self._constructed_with)
        await super().start()

    # --- subscription and assignment -----------------------------------------------------------

    def subscribe(
        self,
        topics: Collection[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Subscribe as AIOKafkaConsumer does."""
        if isinstance(listener, ConsumerRebalanceListener):
            listener = _Listener(listener, self._names)
        if topics and isinstance(topics, (tuple, set, list)):
            self._names.require_topics(topics)
            topics = [self._names.topic(topic) for topic in topics]
        if pattern is not None:
            pattern = self._names.matching(pattern)
        super().subscribe(topics, pattern, listener)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Assign as AIOKafkaConsumer does."""
        super().assign(self._names.existing(partitions))

    def subscription(self) -> frozenset[str]:
        """Return the subscribed topics."""
        return frozenset(self._names.recorded_topics(super().subscription()))

    def assignment(self) -> set[TopicPartition]:
        """Return the assigned partitions."""
        return set(map(self._names.recorded, super().assignment()))

    async def topics(self) -> set[str]:
        """Return the topics of this test."""
        return self._names.recorded_topics(await super().topics())

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions of a topic, None if it is not known."""
        found: set[int] | None = super().partitions_for_topic(self._names.topic(topic))
        return found

    # --- reading -------------------------------------------------------------------------------

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord[Any, Any]:
        """Return the next record; ConsumerStoppedError if stopped or at the end (see above)."""
        self._check_readable()
        places = self._names.partitions(partitions)
        if self._wait:
            return self._recorded(await super().getone(*places))
        while not await self._is_at_end(places):
            found = await super().getmany(*places, timeout_ms=_POLL_MS, max_records=1)
            for records in found.values():
                return self._recorded(records[0])
        raise ConsumerStoppedError

    async def getmany(
        self,
        *partitions: TopicPartition,
        timeout_ms: int = 0,
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        """Return records as AIOKafkaConsumer does."""
        self._check_readable()
        found = await super().getmany(
            *self._names.partitions(partitions), timeout_ms=timeout_ms, max_records=max_records
        )
        return {
            self._names.recorded(place): [self._recorded(record) for record in records]
            for place, records in found.items()
        }

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop reading these partitions until ``resume``."""
        super().pause(*self._names.partitions(partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """Read these partitions again."""
        super().resume(*self._names.partitions(partitions))

    def paused(self) -> set[TopicPartition]:
        """Return the paused partitions."""
        return set(map(self._names.recorded, super().paused()))

    # --- positions and commits -----------------------------------------------------------------

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue at ``offset``, or at the earliest record if it does not exist."""
        super().seek(self._names.partition(partition), offset)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Go to the first record of these partitions, by default of all assigned ones."""
        done: bool = await super().seek_to_beginning(*self._names.partitions(partitions))
        return done

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        """Go behind the last record of these partitions, by default of all assigned ones."""
        done: bool = await super().seek_to_end(*self._names.partitions(partitions))
        return done

    async def seek_to_committed(
        self, *partitions: TopicPartition
    ) -> dict[TopicPartition, int | None]:
        """Go to the committed offsets and return them; partitions without one stay."""
        found = await super().seek_to_committed(*self._names.partitions(partitions))
        return self._by_recorded(found)

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record."""
        position: int = await super().position(self._names.partition(partition))
        return position

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the first offset of every partition."""
        return self._by_recorded(await super().beginning_offsets(self._names.existing(partitions)))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of every partition."""
        return self._by_recorded(await super().end_offsets(self._names.existing(partitions)))

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return the first offset at or after each Unix time in ms, or None."""
        places = self._names.existing(timestamps)
        wanted = dict(zip(places, timestamps.values(), strict=True))
        return self._by_recorded(await super().offsets_for_times(wanted))

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the offset behind the last record, once records were fetched."""
        offset: int | None = super().highwater(self._names.partition(partition))
        return offset

    def last_stable_offset(self, partition: TopicPartition) -> int | None:
        """Return the offset behind the last completed transaction."""
        offset: int | None = super().last_stable_offset(self._names.partition(partition))
        return offset

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        """Return the time of the last fetch, Unix ms."""
        time_ms: int | None = super().last_poll_timestamp(self._names.partition(partition))
        return time_ms

    async def commit(self, offsets: dict[TopicPartition, Any] | None = None) -> None:
        """Store these offsets, or the positions, for the group."""
        if isinstance(offsets, dict):
            offsets = {self._names.partition(place): offsets[place] for place in offsets}
        await super().commit(offsets)

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's last committed offset, None without one."""
        (place,) = self._names.existing([partition])
        offset: int | None = await super().committed(place)
        return offset

    # --- within --------------------------------------------------------------------------------

    def _check_readable(self) -> None:
        """Raise IllegalStateError where aiokafka fails on an attribute or waits forever."""
        if self._closed:
            raise ConsumerStoppedError
        if self._fetcher is None:
            raise IllegalStateError("The consumer was not started")
        state = self._subscription
        if state.subscription is None and state.subscribed_pattern is None:
            raise IllegalStateError("Not subscribed to any topics or partitions")

    async def _is_at_end(self, partitions: Collection[TopicPartition]) -> bool:
        if self._closed or self._subscription.reassignment_in_progress:
            return False
        assigned = set(super().assignment())
        chosen = assigned & set(partitions) if partitions else assigned
        if new := chosen - self._ends.keys():
            self._ends |= await super().end_offsets(list(new))
        for place in chosen:
            try:
                position = await super().position(place)
            except IllegalStateError:
                # A rebalance took it away meanwhile.
                return False
            if position > self._ends[place]:
                # Either the topic grew, or the position is out of range and will be reset.
                self._ends |= await super().end_offsets([place])
            if position != self._ends[place]:
                return False
        return True

    def _recorded(self, record: ConsumerRecord[Any, Any]) -> ConsumerRecord[Any, Any]:
        return replace(record, topic=self._names.recorded_topic(record.topic))

    def _by_recorded(self, found: Mapping[TopicPartition, _T]) -> dict[TopicPartition, _T]:
        return {self._names.recorded(place): each for place, each in found.items()}

"""Topics and consumer groups in the process: the double of a Kafka cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    InconsistentGroupProtocolError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndTimestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from flowstream.messages import Message


class DoubleCluster:
    """Topics that never change, and the groups that read them.

    ``messages`` have the offsets that they get in a topic; ``partitions`` are the
    numbers of partitions by topic.
    """

    def __init__(self, messages: Iterable[Message], partitions: Mapping[str, int]) -> None:
        self._messages: dict[TopicPartition, list[Message]] = {
            TopicPartition(topic, number): []
            for topic, count in partitions.items()
            for number in range(count)
        }
        for message in messages:
            self._messages[TopicPartition(message.topic, message.partition)].append(message)
        self._groups: dict[str, Group] = {}

    def group(self, group_id: str) -> Group:
        """Return the group of this name."""
        return self._groups.setdefault(group_id, Group(self))

    def topics(self) -> set[str]:
        """Return the names of all topics."""
        return {place.topic for place in self._messages}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions of a topic, None if it does not exist."""
        return {place.partition for place in self._messages if place.topic == topic} or None

    def partitions_of(self, topics: Collection[str]) -> set[TopicPartition]:
        """Return all partitions of these topics."""
        return {place for place in self._messages if place.topic in topics}

    def require_topics(self, topics: Iterable[str]) -> None:
        """Raise UnknownTopicOrPartitionError unless all of these topics exist."""
        require(topics, self.topics())

    def require_partitions(self, partitions: Iterable[TopicPartition]) -> None:
        """Raise UnknownTopicOrPartitionError unless all of these partitions exist."""
        require(partitions, self._messages.keys())

    def messages(self, partition: TopicPartition) -> Sequence[Message]:
        """Return the messages of a partition; their offsets are their places."""
        return self._messages[partition]

    def offset_at(self, partition: TopicPartition, time_ms: int) -> OffsetAndTimestamp | None:
        """Return the first offset with at least this timestamp."""
        for message in self._messages[partition]:
            if message.timestamp_ms >= time_ms:
                return OffsetAndTimestamp(message.offset, message.timestamp_ms)
        return None


def require(wanted: Iterable[Any], existing: Collection[Any]) -> None:
    """Raise UnknownTopicOrPartitionError for topics or partitions that do not exist."""
    if unknown := sorted(set(wanted) - set(existing)):
        raise UnknownTopicOrPartitionError(
            f"the test does not replay {', '.join(_name(each) for each in unknown)}, "
            f"only {', '.join(_name(each) for each in sorted(existing))}"
        )


def _name(each: str | TopicPartition) -> str:
    return each if isinstance(each, str) else f"{each.topic}, partition {each.partition}"


class Member(Protocol):
    """A consumer as its group sees it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it was made in."""

    @property
    def assignors(self) -> Sequence[Any]:
        """The assignors that it offers, in its order of preference."""

    def subscription(self) -> frozenset[str]:
        """Return the topics that it subscribes to."""

    async def revoke(self) -> None:
        """Stop reading: a rebalance begins."""

    async def receive(self, partitions: set[TopicPartition]) -> None:
        """Read these partitions from now on."""


class Group:
    """Committed offsets of a consumer group, and its members.

    Members rebalance at once whenever one joins or leaves, in the task that joins
    or leaves. aiokafka's assignors share the partitions, with the members in the
    order in which they joined.
    """

    def __init__(self, cluster: DoubleCluster) -> None:
        self.committed: dict[TopicPartition, int] = {}
        self._cluster = cluster
        self._members: list[Member] = []
        self._rebalancing = asyncio.Lock()

    async def join(self, member: Member) -> None:
        """Add a member, or apply its new subscription.

        Raises InconsistentGroupProtocolError if it shares no assignor with the others.
        """
        self._forget_dead()
        if member not in self._members:
            self._common_assignor([*self._members, member])
            self._members.append(member)
        await self._rebalance()

    async def leave(self, member: Member) -> None:
        """Remove a member; harmless for any other consumer."""
        self._forget_dead()
        if member in self._members:
            self._members.remove(member)
            await self._rebalance()

    def commit(self, consumer: Member, offsets: Mapping[TopicPartition, int]) -> None:
        """Store offsets; CommitFailedError if the group has members, but not this one."""
        self._forget_dead()
        if self._members and consumer not in self._members:
            raise CommitFailedError("the group has members, and the consumer is none of them")
        self.committed.update(offsets)

    def _forget_dead(self) -> None:
        """Forget members that were never stopped, as a broker does when their session ends."""
        self._members = [member for member in self._members if not member.loop.is_closed()]
        if not self._members:
            # The old lock may belong to the loop of an earlier test.
            self._rebalancing = asyncio.Lock()

    async def _rebalance(self) -> None:
        async with self._rebalancing:
            # A copy: members may join and leave while listeners run.
            members = list(self._members)
            for member in members:
                await member.revoke()
            for member, partitions in zip(members, self._shares(members), strict=True):
                await member.receive(partitions)

    def _shares(self, members: Sequence[Member]) -> list[set[TopicPartition]]:
        if not members:
            return []
        assignor = self._common_assignor(members)
        # The assignors sort members by name.
        names = [f"{number:09}" for number in range(len(members))]
        offers = {
            name: assignor.metadata(sorted(member.subscription()))
            for name, member in zip(names, members, strict=True)
        }
        assigned = assignor.assign(self._cluster, offers)
        return [set(assigned[name].partitions()) for name in names]

    @staticmethod
    def _common_assignor(members: Sequence[Member]) -> Any:
        for assignor in members[0].assignors:
            if all(assignor in member.assignors for member in members):
                return assignor
        raise InconsistentGroupProtocolError("the group's members share no assignor")

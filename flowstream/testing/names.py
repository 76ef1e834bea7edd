"""Names of a test's topics: as recorded, and in the broker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from flowstream.testing.cluster import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def matching(pattern: str, topics: Iterable[str]) -> list[str]:
    """Return the topics whose names match; ValueError for an impossible pattern, as aiokafka."""
    try:
        match = re.compile(pattern).match
    except re.error as err:
        raise ValueError(f"{pattern!r} is not a valid pattern: {err}") from err
    return [topic for topic in topics if match(topic)]


class IsolatedNames:
    """Recorded names of a test's topics, and the unique names that they have in the broker."""

    def __init__(self, names: Mapping[str, str], partitions: Mapping[str, int]) -> None:
        self._unique = dict(names)
        self._recorded = {unique: recorded for recorded, unique in names.items()}
        self._partitions = {
            TopicPartition(topic, number)
            for topic, count in partitions.items()
            for number in range(count)
        }

    def topic(self, topic: str) -> str:
        """Return the name in the broker; others are left as they are."""
        return self._unique.get(topic, topic)

    def partition(self, partition: TopicPartition) -> TopicPartition:
        """Return the partition in the broker; others are left as they are."""
        if not isinstance(partition, TopicPartition):
            # aiokafka raises the right error.
            return partition
        return TopicPartition(self.topic(partition.topic), partition.partition)

    def partitions(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Return the partitions in the broker; others are left as they are."""
        return [self.partition(each) for each in partitions]

    def existing(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Return the partitions in the broker.

        Raises UnknownTopicOrPartitionError for one that is not of this test:
        aiokafka would wait for it, and a broker may create its topic.
        """
        partitions = list(partitions)
        require(map(self.recorded, partitions), self._partitions)
        return self.partitions(partitions)

    def require_topics(self, topics: Iterable[str]) -> None:
        """Raise UnknownTopicOrPartitionError unless all of these topics are of this test."""
        require((self.recorded_topic(topic) for topic in topics), self._unique)

    def matching(self, pattern: str) -> str:
        """Return a pattern of the names in the broker whose recorded names match."""
        found = [re.escape(self._unique[name]) for name in matching(pattern, self._unique)]
        return f"(?:{'|'.join(found)})$" if found else "(?!)"

    def recorded_topic(self, topic: str) -> str:
        """Return the recorded name of a topic in the broker."""
        return self._recorded.get(topic, topic)

    def recorded_topics(self, topics: Iterable[str]) -> set[str]:
        """Return the recorded names of those topics that are of this test."""
        return {self._recorded[topic] for topic in topics if topic in self._recorded}

    def recorded(self, partition: TopicPartition) -> TopicPartition:
        """Return a partition in the broker under the recorded name."""
        return TopicPartition(self.recorded_topic(partition.topic), partition.partition)

"""Positions of one consumer double in its partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.errors import IllegalStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiokafka import TopicPartition

    from flowstream.messages import Message
    from flowstream.testing.cluster import DoubleCluster


class Assignment:
    """The assigned partitions: the offset of each one's next record, and which are paused."""

    def __init__(
        self,
        cluster: DoubleCluster,
        partitions: Iterable[TopicPartition],
        committed: Mapping[TopicPartition, int],
    ) -> None:
        self._cluster = cluster
        self.positions = {place: committed.get(place, 0) for place in partitions}
        self.paused: set[TopicPartition] = set()

    def check(self, partitions: Iterable[TopicPartition]) -> None:
        """Raise IllegalStateError unless all of these partitions are assigned."""
        if missing := sorted(set(partitions) - self.positions.keys()):
            raise IllegalStateError(f"Partitions {missing} are not assigned")

    def end(self, partition: TopicPartition) -> int:
        """Return the offset behind the last record."""
        return len(self._cluster.messages(partition))

    def is_at_end(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether these partitions, by default all, are read to the end, paused or not."""
        return all(self.positions[place] == self.end(place) for place in self._chosen(partitions))

    def next(self, partitions: Iterable[TopicPartition]) -> Message | None:
        """Return the record with the least timestamp that can be read now."""
        readable = []
        for place in self._chosen(partitions):
            if place in self.paused:
                continue
            if self.positions[place] > self.end(place):
                # Out of range: a broker's consumer starts again at the earliest record.
                self.positions[place] = 0
            if self.positions[place] < self.end(place):
                readable.append(self._cluster.messages(place)[self.positions[place]])
        return min(readable, key=_when, default=None)

    def _chosen(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        chosen = set(partitions)
        return [place for place in self.positions if not chosen or place in chosen]


def _when(message: Message) -> tuple[int, str, int]:
    return message.timestamp_ms, message.topic, message.partition

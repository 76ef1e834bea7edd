"""A recording for a test: all messages at once, and their records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.errors import SourceError
from flowstream.reading.selection import decoded
from flowstream.segments.source import SegmentSource

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from flowstream.messages import Message
    from flowstream.records import CountersRecord, FlowRecord


class Recording:
    """The recording in the directory ``path``; each call reads it into memory.

    The methods raise SourceError if it cannot be read or is incomplete: missing
    offsets and a last batch that is cut short are errors too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def topics(self) -> list[str]:
        """Names of its topics."""
        return sorted({topic for topic, _ in SegmentSource(self.path).partitions()})

    def partitions(self, topics: Collection[str]) -> dict[str, int]:
        """Number of partitions of each of these topics."""
        places = SegmentSource(self.path, sorted(topics)).partitions()
        counts: dict[str, int] = {}
        for topic, number in places:
            counts[topic] = max(counts.get(topic, 0), number + 1)
        return counts

    def messages(self, topic: str | None = None) -> list[Message]:
        """Messages of one topic, or of all topics, partition by partition, in order."""
        source = SegmentSource(self.path, [topic] if topic else [])
        messages = [
            message
            for place in source.partitions()
            for batch in source.read_partition(*place)
            for message in batch
        ]
        if source.warnings:
            raise SourceError(source.warnings[0])
        return messages

    def records(self, topic: str | None = None) -> list[FlowRecord | CountersRecord]:
        """The records, parallel to ``messages``; DecodeError names topic, partition and offset."""
        return [decoded(message) for message in self.messages(topic)]

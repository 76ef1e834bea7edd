"""Reading a recording: Kafka log segments in a directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowstream.errors import SourceError
from flowstream.segments.reader import (
    SegmentReader,
    count_records,
    offsets,
    partitions_of,
    segments_of,
    topics_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from flowstream.messages import Message


class SegmentSource:
    """Topics of the recording in ``directory``; see ``flowstream.source.Source``.

    Without ``topics`` all that are there. A directory of a broker's logs is a
    recording too; what else lies beside its segments is not looked at.

    Each segment is read to its end at that moment, also while it is being
    written. Two things are warnings: a last batch that is cut short, as the end of
    a process in the middle of a write leaves it, ends its partition; and offsets
    may be missing between batches that are whole. Compaction leaves that, and so
    does a segment or batch that was cut out: nothing in the files tells the two
    apart, not even between segments, as compaction also empties the end of one.
    """

    def __init__(self, directory: Path, topics: Sequence[str] = ()) -> None:
        self._directory = directory
        self._topics = tuple(topics)
        self._known: dict[str, Offsets] = {}
        self._torn: dict[str, str] = {}

    @property
    def warnings(self) -> Sequence[str]:
        """A line per partition that lacks offsets, then one per last batch that is cut short."""
        lacking = [
            f"{place}: {known.warning()}" for place, known in self._known.items() if known.missing
        ]
        return (*lacking, *self._torn.values())

    async def sizes(self) -> dict[str, list[int]]:
        """Return the records of each partition by the batches' headers; 0 where there is none."""
        return await asyncio.to_thread(self._sizes)

    def _sizes(self) -> dict[str, list[int]]:
        sizes: dict[str, list[int]] = {}
        for topic, partition in self.partitions():
            known = sizes.setdefault(topic, [])
            known += [0] * (partition - len(known))
            try:
                segments = segments_of(self._directory / f"{topic}-{partition}")
                known.append(sum(map(count_records, segments)))
            except OSError as err:
                raise SourceError(f"{err.filename}: {err.strerror}") from err
        return sizes

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield all messages, topic by topic, partition by partition, in order."""
        messages = self._read()
        while (batch := await asyncio.to_thread(next, messages, None)) is not None:
            if batch:
                yield batch

    def _read(self) -> Iterator[list[Message]]:
        for topic, partition in self.partitions():
            yield from self.read_partition(topic, partition)

    def partitions(self) -> list[tuple[str, int]]:
        """Return topic and partition of all that is there; ``SourceError`` without a topic."""
        try:
            topics = self._topics or topics_of(self._directory)
            found = {topic: partitions_of(self._directory, topic) for topic in topics}
        except OSError as err:
            raise SourceError(f"{self._directory}: {err.strerror}; name a recording") from err
        if not found:
            raise SourceError(f"{self._directory}: no topic in this recording")
        for topic, partitions in found.items():
            if not partitions:
                raise SourceError(f"{self._directory}: no topic {topic} in this recording")
        return [(topic, partition) for topic, numbers in found.items() for partition in numbers]

    def first_offset(self, topic: str, partition: int) -> int:
        """Return where a partition begins that has a segment."""
        return int(segments_of(self._directory / f"{topic}-{partition}")[0].stem)

    def read_partition(self, topic: str, partition: int) -> Iterator[list[Message]]:
        """Yield one partition's messages in order, as ``batches`` does; lists may be empty."""
        directory = self._directory / f"{topic}-{partition}"
        place = f"{directory}: topic {topic}, partition {partition}"
        try:
            segments = segments_of(directory)
        except OSError as err:
            raise SourceError(f"{place}: {err.strerror}") from err
        if not segments:
            return
        # What was deleted before the first segment is nobody's loss.
        known = self._known[place] = Offsets(int(segments[0].stem))
        try:
            for segment in segments:
                known.reach(int(segment.stem))
                reader = SegmentReader(segment, gaps=True)
                for batch in reader:
                    for messages in batch.messages(topic, partition):
                        known.take(messages)
                        yield messages
                    known.reach(batch.last_offset + 1, lost=not batch.is_control)
                if reader.torn:
                    self._note_torn(place, reader, more=segment != segments[-1])
        except ValueError as err:
            raise SourceError(f"{place}, offset {known.next}: {err}") from err

    def _note_torn(self, place: str, reader: SegmentReader, *, more: bool) -> None:
        line = (
            f"{place}, offset {reader.next_offset}: "
            f"the last batch is cut short at byte {reader.position} of {reader.path.name}"
        )
        if more:
            raise SourceError(f"{line}, and more segments follow")
        self._torn[place] = line


class Offsets:
    """The offsets of one partition: which one is to come, and how many were missing."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.missing = 0
        self._first_missing = ""

    def take(self, messages: Sequence[Message]) -> None:
        """Note messages that were read; ValueError where an offset goes back."""
        if not messages:
            return
        if (
            messages[0].offset == self.next
            and messages[-1].offset == self.next + len(messages) - 1
        ):
            self.next += len(messages)
            return
        for message in messages:
            self.reach(message.offset)
            self.next += 1

    def reach(self, offset: int, *, lost: bool = True) -> None:
        """Go on to ``offset``: what lies before it and was not taken is missing, if ``lost``."""
        if offset < self.next:
            raise ValueError(f"damaged: offset {offset} comes after it")
        if offset > self.next and lost:
            self._first_missing = self._first_missing or offsets(self.next, offset)
            self.missing += offset - self.next
        self.next = offset

    def warning(self) -> str:
        """Say what is missing."""
        return f"{self._first_missing} missing, {self.missing:,} in all: compacted, or cut out"

"""Reading a recording: Kafka log segments in a directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowstream.errors import SourceError
from flowstream.source import Message
from flowstream.source.segment_file import SegmentReader, decode, partitions_of, segments_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path


class SegmentSource:
    """Topics of the recording in ``directory``; see ``flowstream.source.Source``.

    Each segment is read to its end at that moment, also while it is being
    written. A batch that is cut short, as the end of a process in the middle of
    a write leaves it, ends its partition with a warning.
    """

    def __init__(self, directory: Path, topics: Sequence[str]) -> None:
        self._directory = directory
        self._topics = tuple(topics)
        self._warnings: list[str] = []

    @property
    def warnings(self) -> Sequence[str]:
        """One line per partition whose last batch is cut short."""
        return tuple(self._warnings)

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield all messages, topic by topic, partition by partition, in order."""
        messages = self._read()
        while (batch := await asyncio.to_thread(next, messages, None)) is not None:
            if batch:
                yield batch

    def _read(self) -> Iterator[list[Message]]:
        for topic, partition in self._partitions():
            yield from self._read_partition(topic, partition)

    def _partitions(self) -> list[tuple[str, int]]:
        try:
            found = {topic: partitions_of(self._directory, topic) for topic in self._topics}
        except OSError as err:
            raise SourceError(f"{self._directory}: {err.strerror}; name a recording") from err
        for topic, partitions in found.items():
            if not partitions:
                raise SourceError(f"{self._directory}: no topic {topic} in this recording")
        return [(topic, partition) for topic, numbers in found.items() for partition in numbers]

    def _read_partition(self, topic: str, partition: int) -> Iterator[list[Message]]:
        expected: int | None = None
        segments = segments_of(self._directory / f"{topic}-{partition}")
        for segment in segments:
            reader = SegmentReader(segment)
            if expected is not None and reader.next_offset != expected:
                raise SourceError(
                    f"{segment.parent}: topic {topic}, partition {partition}, offset {expected}: "
                    f"missing; the next segment is {segment.name}"
                )
            for batch in reader:
                try:
                    yield [
                        Message(topic, partition, offset, timestamp, key, value or b"")
                        for offset, timestamp, key, value in decode(batch)
                    ]
                except ValueError as err:
                    raise SourceError(
                        f"{segment}: topic {topic}, partition {partition}, "
                        f"offset {batch.base_offset}: {err}"
                    ) from err
            expected = reader.next_offset
            if reader.torn:
                self._warnings.append(
                    f"{segment}: topic {topic}, partition {partition}, offset {expected}: "
                    f"the last batch is cut short at byte {reader.position}"
                )
                if segment != segments[-1]:
                    raise SourceError(f"{self._warnings[-1]}, and more segments follow")

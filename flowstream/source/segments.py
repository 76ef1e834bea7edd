"""Reading a recording: Kafka log segments in a directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowstream.errors import SourceError
from flowstream.source.segment_file import (
    SegmentReader,
    count_records,
    decode,
    partitions_of,
    segments_of,
    topics_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from flowstream.source import Message


class SegmentSource:
    """Topics of the recording in ``directory``; see ``flowstream.source.Source``.

    Without ``topics`` all that are there. A directory of a broker's logs is a
    recording too; what else lies beside its segments is not looked at.

    Each segment is read to its end at that moment, also while it is being
    written. A batch that is cut short, as the end of a process in the middle of
    a write leaves it, ends its partition with a warning.
    """

    def __init__(self, directory: Path, topics: Sequence[str] = ()) -> None:
        self._directory = directory
        self._topics = tuple(topics)
        self._warnings: list[str] = []

    @property
    def warnings(self) -> Sequence[str]:
        """One line per partition whose last batch is cut short."""
        return tuple(self._warnings)

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

    def read_partition(self, topic: str, partition: int) -> Iterator[list[Message]]:
        """Yield one partition's messages in order, as ``batches`` does; lists may be empty."""
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
                    yield decode(topic, partition, batch)
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

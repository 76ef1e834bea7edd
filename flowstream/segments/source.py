"""Reading a recording: Kafka log segments in a directory."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from typing import TYPE_CHECKING

from flowstream.errors import MissingTopicError, SourceError
from flowstream.segments.archive import unpack
from flowstream.segments.partition import PartitionReader
from flowstream.segments.reader import count_records, partitions_of, segments_of, topics_of
from flowstream.wording import ranges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from flowstream.messages import Message

# Seconds between checks of the files while nothing is added.
_FOLLOWING_PAUSE = 0.2


class SegmentSource:
    """Topics of the recording in ``directory``; see ``flowstream.source.Source``.

    ``directory`` may be a file that ``flowstream record`` made of one; it is unpacked
    into a temporary directory. Without ``topics`` it reads all of them. A broker's log
    directory is a recording too; other files beside its segments are ignored.

    A recording may be read while it is written. Three things are warnings: a last
    batch that is cut short, as a process leaves it that ends in the middle of a
    write, offsets that are missing between whole batches, and partitions that are
    missing below others, as in the directory of one broker out of several. Compaction
    leaves gaps of offsets, and so does a segment or batch that was cut out: nothing
    in the files tells the two apart, not even between segments, as compaction also
    empties the end of one.
    """

    def __init__(self, directory: Path, topics: Sequence[str] = ()) -> None:
        self._path = directory
        self._unpacked: Path | None = None
        self._topics = tuple(topics)
        # The latest reader of each partition, for warnings.
        self._readers: dict[tuple[str, int], PartitionReader] = {}
        # Line about the partitions that a topic lacks.
        self._lacking: dict[str, str] = {}

    @property
    def warnings(self) -> Sequence[str]:
        """A line per topic without some partition, per gap of offsets, per batch cut short."""
        readers = self._readers.values()
        lines = [*self._lacking.values(), *(reader.missing for reader in readers)]
        lines += [reader.torn for reader in readers]
        return [line for line in lines if line]

    @property
    def _directory(self) -> Path:
        """Directory of the recording, unpacked where it is a file."""
        if self._unpacked is None and self._path.is_file():
            self._unpacked = unpack(self._path)
            weakref.finalize(self, shutil.rmtree, self._unpacked, ignore_errors=True)
        return self._unpacked or self._path

    async def sizes(self) -> dict[str, list[int]]:
        """Return the records of each partition by the batches' headers; 0 for a missing one."""
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

    async def batches(
        self, *, follow: bool = False, since_ms: int | None = None
    ) -> AsyncIterator[list[Message]]:
        """Yield all messages, topic by topic, partition by partition, in order.

        Batches that end before ``since_ms`` are left out. With ``follow`` it then
        yields later messages, also those of new segments, partitions and, without
        ``topics``, topics.
        """
        self._readers = {}
        while True:
            idle = True
            messages = self._read(since_ms)
            while (batch := await asyncio.to_thread(next, messages, None)) is not None:
                if batch:
                    idle = False
                    yield batch
            if not follow:
                return
            if idle:
                await asyncio.sleep(_FOLLOWING_PAUSE)

    def _read(self, since_ms: int | None) -> Iterator[list[Message]]:
        for place in self.partitions():
            if place not in self._readers:
                self._readers[place] = PartitionReader(self._directory, *place)
            yield from self._readers[place].read(since_ms)

    def partitions(self) -> list[tuple[str, int]]:
        """Return topic and number of each partition; ``SourceError`` without a topic."""
        try:
            topics = self._topics or topics_of(self._directory)
            found = {topic: partitions_of(self._directory, topic) for topic in topics}
        except OSError as err:
            raise SourceError(f"{self._path}: {err.strerror}; name a recording") from err
        if not found:
            raise SourceError(f"{self._path}: no topic in this recording")
        missing = tuple(topic for topic, partitions in found.items() if not partitions)
        if missing:
            present = ", ".join(topics_of(self._directory))
            others = f"; its topics: {present}" if present else ""
            raise MissingTopicError(
                f"{self._path}: no topic {', '.join(missing)} in this recording{others}",
                missing,
            )
        self._lacking = dict(self._without_some(found))
        return [(topic, partition) for topic, numbers in found.items() for partition in numbers]

    def _without_some(self, found: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str]]:
        """Yield each topic whose partitions have gaps, and a line that names both kinds."""
        for topic, numbers in found.items():
            if missing := sorted({*range(numbers[-1])} - {*numbers}):
                line = (
                    f"{self._path}: topic {topic}: no partition {ranges(missing)} in this "
                    f"recording; its partitions: {ranges(numbers)}"
                )
                yield topic, line

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the first offset of a partition that has a segment."""
        return int(segments_of(self._directory / f"{topic}-{partition}")[0].stem)

    def read_partition(self, topic: str, partition: int) -> Iterator[list[Message]]:
        """Yield one partition's messages in order, as ``batches`` does; lists may be empty."""
        reader = self._readers[topic, partition] = PartitionReader(
            self._directory, topic, partition
        )
        return reader.read()

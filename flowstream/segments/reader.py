"""Kafka log segments on disk: their names, and a reader that checks everything.

A recording is DIR/TOPIC-PARTITION/BASE_OFFSET.log, with the base offset in 20
digits; each file is a sequence of record batches v2 as Kafka's
DefaultRecordBatch.java describes them. The CRC covers a batch from its attributes
on. The fields before them (base offset, length, magic) are checked against the
batch's neighbours and contents; a base offset that is too large looks like missing
batches. Only the partition leader epoch, which has no meaning in a recording, is
not checked.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from flowstream.errors import SourceError
from flowstream.files import open_regular
from flowstream.segments.batches import CONTROL, HEADER, LENGTH_END, MAGIC, MAGIC_POSITION, Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

PARTITION_NAME = re.compile(r"(?P<topic>[A-Za-z0-9._-]{1,249})-(?P<partition>0|[1-9][0-9]{0,5})")
# Offsets are below 2**63.
SEGMENT_NAME = re.compile(r"0[0-8][0-9]{18}\.log")

# No broker accepts a request of this size: a greater length is damage.
_MAX_LENGTH = 100 << 20
# A length of 32 bits takes five octets of seven.
_MAX_SHIFT = 28


def partitions_of(directory: Path, topic: str) -> list[int]:
    """Return the partitions of ``topic`` in a recording, in order."""
    return partitions_among((entry.name for entry in directory.iterdir()), topic)


def partitions_among(names: Iterable[str], topic: str) -> list[int]:
    """Return the partitions of ``topic`` among the names in a recording, in order."""
    found = [PARTITION_NAME.fullmatch(name) for name in names]
    return sorted(int(name["partition"]) for name in found if name and name["topic"] == topic)


def topics_of(directory: Path) -> list[str]:
    """Return the topics of a recording, sorted, without a broker's own (``__...``)."""
    names = [PARTITION_NAME.fullmatch(entry.name) for entry in directory.iterdir()]
    return sorted({name["topic"] for name in names if name and not name["topic"].startswith("__")})


def count_records(segment: Path) -> int:
    """Count the records of a segment by its batches' headers, up to any damage.

    0 where retention has deleted it meanwhile.
    """
    try:
        with open_regular(segment) as file:
            return sum(head.records for head in _heads(file) if not head.attributes & CONTROL)
    except FileNotFoundError:
        return 0


def newest_ms(descriptor: int) -> int:
    """Return the largest timestamp of a segment by its batches' headers, up to any damage.

    0 without a batch. The descriptor stays open.
    """
    with open(descriptor, "rb", closefd=False) as file:
        return max((head.max_timestamp_ms for head in _heads(file)), default=0)


class _Head(NamedTuple):
    """Part of a batch's header."""

    attributes: int
    max_timestamp_ms: int
    records: int


def _heads(file: BinaryIO) -> Iterator[_Head]:
    while len(head := file.read(HEADER.size)) == HEADER.size:
        fields = HEADER.unpack(head)
        length, records = fields[1], fields[-1]
        if not HEADER.size - LENGTH_END <= length <= _MAX_LENGTH or records < 0:
            return
        yield _Head(fields[5], fields[8], records)
        file.seek(length + LENGTH_END - HEADER.size, os.SEEK_CUR)


def segments_of(directory: Path) -> list[Path]:
    """Return the segments in a partition's directory in the order of their offsets."""
    return sorted(path for path in directory.iterdir() if SEGMENT_NAME.fullmatch(path.name))


class SegmentReader:
    """The batches of one segment, from its base offset on.

    Iterating again goes on where the last iteration ended: with what was added
    since. ``next_offset`` is the offset that follows, ``position`` where in the file
    its batch begins. A last batch that is cut short ends the iteration and sets
    ``torn``; any other damage raises ``SourceError``, and so do missing offsets
    unless ``gaps`` allows them: then the caller compares. With a ``descriptor``,
    which stays open, it reads from that, and ``path`` is for messages only. Memory:
    one batch.
    """

    def __init__(self, path: Path, *, gaps: bool = False, descriptor: int | None = None) -> None:
        self.path = path
        self._gaps = gaps
        self._descriptor = descriptor
        self.next_offset = int(path.stem)
        self.position = 0
        self.torn = False

    def __iter__(self) -> Iterator[Batch]:
        self.torn = False
        try:
            with self._open() as file:
                file.seek(self.position)
                while (batch := self._read(file)) is not None:
                    yield batch
        except OSError as err:
            raise SourceError(f"{self._where()}: {err.strerror}") from err

    def _open(self) -> BinaryIO:
        if self._descriptor is None:
            return open_regular(self.path)
        return open(self._descriptor, "rb", closefd=False)

    def _read(self, file: BinaryIO) -> Batch | None:
        head = file.read(HEADER.size)
        if not head:
            return None
        if len(head) > MAGIC_POSITION and head[MAGIC_POSITION] != MAGIC:
            raise self._damage(f"record format {head[MAGIC_POSITION]} instead of {MAGIC}")
        if len(head) < HEADER.size:
            self._end(head)
            return None
        fields = HEADER.unpack(head)
        length, records = fields[1], fields[-1]
        if not HEADER.size - LENGTH_END <= length <= _MAX_LENGTH:
            raise self._damage(f"a length of {length} bytes")
        body = file.read(length + LENGTH_END - HEADER.size)
        if len(head) + len(body) < length + LENGTH_END:
            if _is_whole(head, body, records):
                raise self._damage(f"the length {length}, longer than the batch's records")
            self._end(head)
            return None
        batch = Batch(head + body)
        if not batch.is_intact():
            raise self._damage("a wrong checksum")
        self._check_offsets(batch)
        self.next_offset = batch.last_offset + 1
        self.position += len(head) + len(body)
        return batch

    def _end(self, head: bytes) -> None:
        """End at a batch that is cut short; its offset must be right, as no checksum tells."""
        expected = self.next_offset.to_bytes(8, "big")
        if not expected.startswith(head[:8]):
            raise self._damage(f"a batch of offset {int.from_bytes(head[:8], 'big')}, cut short")
        self.torn = True

    def _check_offsets(self, batch: Batch) -> None:
        """Check the offsets, which the checksum does not cover, by the batches before."""
        first, last = batch.base_offset, batch.last_offset
        if first < self.next_offset or last < first:
            raise self._damage(f"a batch of offsets {first} to {last}")
        if first > self.next_offset and not self._gaps:
            missing = offsets(self.next_offset, first)
            raise self._damage(f"{missing} missing, compacted or cut out,")

    def _damage(self, what: str) -> SourceError:
        return SourceError(
            f"{self._where()}: damaged: {what} at byte {self.position} of {self.path.name}"
        )

    def _where(self) -> str:
        topic, _, partition = self.path.parent.name.rpartition("-")
        return (
            f"{self.path.parent}: topic {topic}, partition {partition}, offset {self.next_offset}"
        )


def offsets(begin: int, end: int) -> str:
    """Name the offsets from ``begin`` to ``end``, exclusive."""
    return f"offset {begin}" if end == begin + 1 else f"offsets {begin} to {end - 1}"


def _is_whole(head: bytes, body: bytes, records: int) -> bool:
    """Say whether a batch of so many records ends in ``body``: its length is wrong then."""
    batch = Batch(head)
    if not batch.is_compressed:
        return _holds(body, records)
    # The checksum does not cover the length. The end is that of the body or the next batch.
    following = ((batch.last_offset + 1) % (1 << 64)).to_bytes(8, "big")
    ends = {len(body), body.find(following)} - {-1}
    return any(Batch(head + body[:end]).is_intact() for end in ends)


def _holds(body: bytes, records: int) -> bool:
    """Say whether ``body`` has that many records: then it was not cut short."""
    position = 0
    for _ in range(records):
        length = shift = 0
        while True:
            if position >= len(body) or shift > _MAX_SHIFT:
                return False
            byte = body[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        # Zigzag; the length of a record is never negative.
        position += length >> 1
        if position > len(body):
            return False
    return True

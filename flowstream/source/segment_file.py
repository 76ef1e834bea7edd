"""Kafka log segments on disk: their names, and the reading of one with every check.

A recording is DIR/TOPIC-PARTITION/BASE_OFFSET.log, the base offset in 20 digits,
each file a row of record batches v2 as Kafka's DefaultRecordBatch.java describes
them. The CRC covers a batch from its attributes on; what stands before (base
offset, length, magic) is checked against the batch's neighbours and contents.
Only the partition leader epoch, which says nothing about a recording, is free.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING

from flowstream.errors import SourceError
from flowstream.source import Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from aiokafka.record.default_records import DefaultRecordBatch

PARTITION_NAME = re.compile(r"(?P<topic>[A-Za-z0-9._-]{1,249})-(?P<partition>0|[1-9][0-9]{0,8})")
SEGMENT_NAME = re.compile(r"[0-9]{20}\.log")

# Base offset, length, partition leader epoch, magic, CRC, attributes, last offset
# delta, first and max timestamp, producer id, producer epoch, base sequence, records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_MAGIC = 2
_MAGIC_POSITION = 16
# The length counts from behind itself.
_LENGTH_END = 12
# No broker takes a request of this size: a length beyond it is damage, not data.
_MAX_LENGTH = 100 << 20


def partitions_of(directory: Path, topic: str) -> list[int]:
    """Return the partitions of ``topic`` in a recording, in order."""
    names = [PARTITION_NAME.fullmatch(entry.name) for entry in directory.iterdir()]
    return sorted(int(name["partition"]) for name in names if name and name["topic"] == topic)


def topics_of(directory: Path) -> list[str]:
    """Return the topics of a recording by name, without a broker's own (``__...``)."""
    names = [PARTITION_NAME.fullmatch(entry.name) for entry in directory.iterdir()]
    return sorted({name["topic"] for name in names if name and not name["topic"].startswith("__")})


def count_records(segment: Path) -> int:
    """Count the records of a segment by its batches' headers alone, up to anything strange."""
    count = 0
    with segment.open("rb") as file:
        while len(head := file.read(_HEADER.size)) == _HEADER.size:
            fields = _HEADER.unpack(head)
            length, records = fields[1], fields[-1]
            if not _HEADER.size - _LENGTH_END <= length <= _MAX_LENGTH or records < 0:
                break
            count += records
            file.seek(length + _LENGTH_END - _HEADER.size, os.SEEK_CUR)
    return count


def segments_of(directory: Path) -> list[Path]:
    """Return the segments in a partition's directory in the order of their offsets."""
    return sorted(path for path in directory.iterdir() if SEGMENT_NAME.fullmatch(path.name))


class SegmentReader:
    """The batches of one segment, from its base offset on.

    Iterate once; then, and while iterating, ``next_offset`` is the offset that
    follows and ``position`` the place in the file where it would begin. A last
    batch that was cut short ends the iteration and sets ``torn``; any other
    damage is ``SourceError``. Memory: one batch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.next_offset = int(path.stem)
        self.position = 0
        self.torn = False

    def __iter__(self) -> Iterator[DefaultRecordBatch]:
        try:
            with self._path.open("rb") as file:
                while (batch := self._read(file)) is not None:
                    yield batch
        except OSError as err:
            raise SourceError(f"{self._where()}: {err.strerror}") from err

    def _read(self, file: BinaryIO) -> DefaultRecordBatch | None:
        # Not at the top: an agent that records is attached sooner without it.
        from aiokafka.record.default_records import DefaultRecordBatch  # noqa: PLC0415

        head = file.read(_HEADER.size)
        if not head:
            return None
        self._check_start(head)
        if len(head) < _HEADER.size:
            self.torn = True
            return None
        length, records = _HEADER.unpack(head)[1], _HEADER.unpack(head)[-1]
        if not _HEADER.size - _LENGTH_END <= length <= _MAX_LENGTH:
            raise self._damage(f"a length of {length} bytes")
        body = file.read(length + _LENGTH_END - _HEADER.size)
        if len(head) + len(body) < length + _LENGTH_END:
            if _holds(body, records):
                raise self._damage(f"the length {length}, longer than the batch's records")
            self.torn = True
            return None
        batch = DefaultRecordBatch(head + body)
        if not batch.validate_crc():
            raise self._damage("a wrong checksum")
        self.next_offset = batch.next_offset
        self.position += len(head) + len(body)
        return batch

    def _check_start(self, head: bytes) -> None:
        """Check of a header, whole or cut, what the batch's place and format decide."""
        expected = self.next_offset.to_bytes(8, "big")
        if not expected.startswith(head[:8]):
            raise self._damage(f"a batch of offset {int.from_bytes(head[:8], 'big')}")
        if len(head) > _MAGIC_POSITION and head[_MAGIC_POSITION] != _MAGIC:
            raise self._damage(f"record format {head[_MAGIC_POSITION]} instead of {_MAGIC}")

    def _damage(self, what: str) -> SourceError:
        return SourceError(
            f"{self._where()}: damaged: {what} at byte {self.position} of {self._path.name}"
        )

    def _where(self) -> str:
        topic, _, partition = self._path.parent.name.rpartition("-")
        return (
            f"{self._path.parent}: topic {topic}, partition {partition}, offset {self.next_offset}"
        )


def decode(topic: str, partition: int, batch: DefaultRecordBatch) -> list[Message]:
    """Return the messages of a batch, none for a broker's own marks; ValueError when malformed."""
    from aiokafka.errors import (  # noqa: PLC0415 - as above
        CorruptRecordException,
        UnsupportedCodecError,
    )

    if batch.is_control_batch:
        return []
    try:
        return [
            Message(
                topic,
                partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value or b"",
                tuple(record.headers),
                record.value is None,
            )
            for record in batch
        ]
    except CorruptRecordException as err:
        raise ValueError(str(err)) from err
    except UnsupportedCodecError as err:
        raise ValueError(f"a compressed batch: {err}; pip install cramjam") from err
    except Exception as err:
        # Whatever a codec raises on damage that the checksum does not cover.
        if batch.compression_type:
            raise ValueError(f"a compressed batch that cannot be unpacked: {err}") from err
        raise


def _holds(body: bytes, records: int) -> bool:
    """Say whether ``body`` has all the records that it should: then it was not cut short."""
    position = 0
    for _ in range(records):
        length = shift = 0
        while True:
            if position >= len(body):
                return False
            byte = body[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        # Zigzag, and never negative for a record's length.
        position += length >> 1
        if position > len(body):
            return False
    return True

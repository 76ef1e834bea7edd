"""Log segments: a recording of one partition, read and continued.

The first octet selects how the rest becomes files: bit 0 corrects lengths and checksums
of the batches, so that the code behind those checks is reached; bit 1 puts a valid
segment before it.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import cramjam
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from flowstream import compression
from flowstream.errors import SinkError, SourceError
from flowstream.messages import MessageBatch
from flowstream.segments.batches import HEADER
from flowstream.segments.directory import Directory
from flowstream.segments.reader import SegmentReader, count_records
from flowstream.segments.source import SegmentSource
from flowstream.segments.writer import SegmentWriter
from fuzz.files import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flowstream.messages import Message

_RECORDING: Final = scratch()
_REPAIR, _SECOND = 1, 2
_LENGTH: Final = struct.Struct(">i")
_CRC: Final = struct.Struct(">I")
_LENGTH_AT, _MAGIC_AT, _CRC_AT, _CRC_BEGIN = 8, 16, 17, 21
_BASE: Final = struct.Struct(">q")
_ATTRIBUTES: Final = struct.Struct(">h")
_LARGEST_LENGTH: Final = 100 << 20


def _batch(base: int, count: int, *, codec: int = 0, attributes: int = 0) -> bytes:
    make: Any = DefaultRecordBatchBuilder
    builder = make(2, 0, 0, -1, -1, -1, 1 << 16)
    for number in range(count):
        headers = [("h", b"x"), ("n", None)] if number == 1 else []
        value = None if number == 2 else b"value %d" % number
        builder.append(number, 1_700_000_000_000 + number, b"key", value, headers)
    batch = builder.build()
    _BASE.pack_into(batch, 0, base)
    pack: dict[int, Callable[[bytes], bytes]] = {
        0: bytes,
        1: lambda data: zlib.compress(data, wbits=31),
        2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
        3: lambda data: bytes(cramjam.lz4.compress(data)),
        4: lambda data: bytes(cramjam.zstd.compress(data)),
    }
    packed = pack[codec](bytes(batch[HEADER.size :]))
    _ATTRIBUTES.pack_into(batch, _CRC_BEGIN, codec | attributes)
    return repaired(bytes(batch[: HEADER.size]) + packed, last=True)


def _bomb(codec: int) -> bytes:
    """Return a batch whose few octets unpack to four times the limit."""
    batch = bytearray(_batch(0, 3))
    zeros = bytes(4 << 20)
    packed = {1: zlib.compress(zeros, wbits=31), 4: bytes(cramjam.zstd.compress(zeros))}[codec]
    _ATTRIBUTES.pack_into(batch, _CRC_BEGIN, codec)
    return repaired(bytes(batch[: HEADER.size]) + packed, last=True)


def seeds() -> Sequence[bytes]:
    """Return segments of every compression, with control batches, gaps and a bomb."""
    plain = _batch(0, 3) + _batch(3, 5)
    contents = [
        plain,
        _batch(0, 3) + _batch(5, 2),
        _batch(0, 1, attributes=0x20) + _batch(1, 1, attributes=0x08),
        *(_batch(0, 4, codec=codec) for codec in range(5)),
        *(_bomb(codec) for codec in (1, 4)),
    ]
    return [
        *(bytes([_REPAIR]) + each for each in contents),
        bytes([0]) + plain,
        bytes([_SECOND]) + _batch(3, 2),
    ]


def target(data: bytes) -> None:
    """Read a recording in every way; the messages are those that aiokafka reads."""
    # A lower limit, so that bombs can be small.
    with patch.object(compression, "MAX_UNPACKED", 1 << 20):
        if data:
            _target(data)


def _target(data: bytes) -> None:
    content = repaired(data[1:]) if data[0] & _REPAIR else data[1:]
    directory = _write(content, second=bool(data[0] & _SECOND))
    for segment in directory.iterdir():
        assert count_records(segment) >= 0
    source = SegmentSource(_RECORDING)
    assert source.partitions() == [("t", 0)]
    messages: list[Message] = []
    try:
        for part in source.read_partition("t", 0):
            messages += part
    except SourceError as err:
        assert str(_RECORDING) in str(err)
        _continue(directory)
        return
    if not (data[0] & _SECOND) and not source.warnings:
        _compare(messages, content)
    _continue(directory)
    if messages:
        _write_again(messages)


@cache
def _first() -> bytes:
    return _batch(0, 3)


def _write(content: bytes, *, second: bool) -> Path:
    shutil.rmtree(_RECORDING / "t-0", ignore_errors=True)
    directory = _RECORDING / "t-0"
    directory.mkdir()
    if second:
        (directory / f"{0:020}.log").write_bytes(_first())
    (directory / f"{3 if second else 0:020}.log").write_bytes(content)
    return directory


def _continue(directory: Path) -> None:
    """Open it as the sink does; what it keeps is whole."""
    try:
        writer = SegmentWriter(Directory.open(directory, None))
    except (SourceError, SinkError):
        return
    writer.close()
    last = max(directory.iterdir())
    reader = SegmentReader(last)
    assert sum(1 for _ in reader) >= 0
    assert not reader.torn


def _compare(messages: Sequence[Message], content: bytes) -> None:
    """Compare with what aiokafka reads, where it reads everything."""
    try:
        expected = _read_by_aiokafka(content)
    except Exception:  # noqa: BLE001 - it has other errors and bounds
        return
    assert [_fields(message) for message in messages] == expected


def _read_by_aiokafka(content: bytes) -> list[tuple[Any, ...]]:
    records = MemoryRecords(content)
    found: list[Any] = []
    while records.has_next():
        batch = records.next_batch()
        if batch is not None and not batch.is_control_batch:
            found += batch
    return [
        (each.offset, each.timestamp, each.key, each.value, tuple(each.headers)) for each in found
    ]


def _fields(message: Message) -> tuple[Any, ...]:
    value = None if message.is_null else message.value
    return message.offset, message.timestamp_ms, message.key, value, message.headers


def _write_again(messages: list[Message]) -> None:
    """Write what was read into another recording, and read it back."""
    directory = _RECORDING / "copy-0"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    writer = SegmentWriter(Directory.open(directory, None))
    written, error = writer.append(MessageBatch.copy_of(messages))
    writer.close()
    assert error is None
    assert written == len(messages)
    again = SegmentSource(_RECORDING, ["copy"]).read_partition("copy", 0)
    copies = [_fields(message)[1:] for part in again for message in part]
    shutil.rmtree(directory)
    assert copies == [_fields(message)[1:] for message in messages]


def repaired(content: bytes, *, last: bool = False) -> bytes:
    """Put checksums right, and the length of a batch that is the last."""
    batches = bytearray(content)
    at = 0
    while at + HEADER.size <= len(batches):
        (length,) = _LENGTH.unpack_from(batches, at + _LENGTH_AT)
        end = at + 12 + length
        if last or not HEADER.size - 12 <= length <= _LARGEST_LENGTH or end > len(batches):
            end = len(batches)
            _LENGTH.pack_into(batches, at + _LENGTH_AT, end - at - 12)
        batches[at + _MAGIC_AT] = 2
        _CRC.pack_into(batches, at + _CRC_AT, calc_crc32c(bytes(batches[at + _CRC_BEGIN : end])))
        at = end
    return bytes(batches)

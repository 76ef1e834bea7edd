"""Reading back: what is there, what is torn, what is damaged, and what is missing."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support.outcomes import Account, make_batch, number

from flowstream.errors import SourceError, UsageError
from flowstream.sink.segments import SegmentSink
from flowstream.source import open_source
from flowstream.source.segment_file import SegmentReader

if TYPE_CHECKING:
    from pathlib import Path

    from broker import Broker

pytestmark = pytest.mark.anyio

HEADER_BYTES = 61
# Says who led the partition: outside the checksum and of no meaning in a recording.
LEADER_EPOCH = range(12, 16)


async def record(directory: Path, counts: list[int], **options: int) -> Path:
    """Record batches of small values into topic t; return the first segment."""
    sink = SegmentSink(directory, Account(), partitions=1, **options)
    await sink.start(["t"])
    first = 0
    for count in counts:
        await sink.send(make_batch("t", 0, first, count, size=12))
        first += count
    await sink.close(10)
    return directory / "t-0" / f"{0:020}.log"


async def read(url: str, topic: str = "t") -> tuple[list[int], str | None, tuple[str, ...]]:
    """The numbers read, the text of the error that ended it, the warnings."""
    source = open_source(url, [topic])
    numbers: list[int] = []
    try:
        async for batch in source.batches():
            assert batch
            numbers += [number(m.value) for m in batch]
    except SourceError as err:
        return numbers, str(err), tuple(source.warnings)
    return numbers, None, tuple(source.warnings)


def batch_ends(segment: Path) -> list[int]:
    reader = SegmentReader(segment)
    return [reader.position for _ in reader]


async def test_file_url_and_plain_directory_read_the_same(tmp_path: Path) -> None:
    await record(tmp_path, [3, 5])
    assert (
        await read(str(tmp_path)) == await read(f"file:{tmp_path}") == (list(range(8)), None, ())
    )


async def test_cut_anywhere_in_the_last_batch_keeps_all_before_it(tmp_path: Path) -> None:
    segment = await record(tmp_path, [3, 5])
    whole, end = batch_ends(segment)
    for size in range(end - 1, whole, -1):
        os.truncate(segment, size)
        numbers, error, warnings = await read(str(tmp_path))
        assert (numbers, error) == ([0, 1, 2], None), size
        assert len(warnings) == 1, size
        assert f"offset 3: the last batch is cut short at byte {whole}" in warnings[0]
    os.truncate(segment, whole)
    assert await read(str(tmp_path)) == ([0, 1, 2], None, ())


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_any_flipped_bit_is_found_and_all_before_it_is_used(
    tmp_path: Path, victim: int
) -> None:
    segment = await record(tmp_path, [2, 3, 2])
    ends = [0, *batch_ends(segment)]
    good = segment.read_bytes()
    before = [0, 2, 5, 7][victim]
    for position in range(ends[victim], ends[victim + 1]):
        for bit in range(8):
            data = bytearray(good)
            data[position] ^= 1 << bit
            segment.write_bytes(data)
            numbers, error, warnings = await read(str(tmp_path))
            if position - ends[victim] in LEADER_EPOCH:
                assert (numbers, error) == (list(range(7)), None)
                continue
            assert numbers == list(range(before)), (position, bit)
            assert error is not None, (position, bit)
            assert f"topic t, partition 0, offset {before}: damaged" in error
            assert not warnings


async def test_missing_segment_is_named_by_the_offset(tmp_path: Path) -> None:
    await record(tmp_path, [97] * 7, segment_bytes=8_000)
    segments = sorted((tmp_path / "t-0").iterdir())
    assert len(segments) == 4
    segments[1].unlink()
    numbers, error, _ = await read(str(tmp_path))
    assert numbers == list(range(194))
    assert error is not None
    assert "offset 194: missing" in error


async def test_torn_segment_with_others_behind_it_is_damage(tmp_path: Path) -> None:
    await record(tmp_path, [97] * 7, segment_bytes=8_000)
    segments = sorted((tmp_path / "t-0").iterdir())
    os.truncate(segments[1], segments[1].stat().st_size - 1)
    numbers, error, _ = await read(str(tmp_path))
    assert numbers == list(range(291))
    assert error is not None
    assert "offset 291: the last batch is cut short" in error


@pytest.mark.parametrize(
    "content",
    [b"\0" * 1000, b"\xff" * 1000, b"x", b"\0" * 8 + b"\x7f\xff\xff\xff" + b"\2" * 100],
    ids=["zeros", "ones", "one byte", "length of 2 GiB"],
)
async def test_file_that_is_no_segment_ends_in_an_error(tmp_path: Path, content: bytes) -> None:
    segment = await record(tmp_path, [3])
    segment.write_bytes(content)
    numbers, error, _ = await read(str(tmp_path))
    assert numbers == []
    assert error is not None
    assert "topic t, partition 0, offset 0: damaged" in error


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    _, error, _ = await read(str(tmp_path / "none"))
    assert error == f"{tmp_path}/none: No such file or directory; name a recording"
    _, error, _ = await read(str(tmp_path))
    assert error == f"{tmp_path}: no topic t in this recording"
    with pytest.raises(UsageError, match="cannot be read back"):
        open_source("stdout:", ["t"])


async def test_log_directory_of_a_broker_is_a_recording(broker: Broker, tmp_path: Path) -> None:
    from flowstream.sink.kafka import KafkaSink

    sink = KafkaSink([broker.address], Account(), partitions=1)
    topic = f"source-{tmp_path.name}"
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 4001))
    await sink.flush(10)
    await sink.close(5)
    copy = tmp_path / f"{topic}-0"
    shutil.copytree(broker.log_dir / copy.name, copy)
    assert await read(str(tmp_path), topic) == (list(range(4001)), None, ())
    assert await read(broker.url, topic) == (list(range(4001)), None, ())


async def test_kafka_topic_or_broker_that_is_not_there_is_named(broker: Broker) -> None:
    assert await read(broker.url, "no-such") == ([], f"{broker.url}: no topic no-such", ())
    _, error, _ = await read("kafka://127.0.0.1:9")
    assert error is not None
    assert "kafka://127.0.0.1:9: cannot be read" in error

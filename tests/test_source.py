"""Sources: contents, torn batches, damage, missing offsets, and following."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import cramjam
import pytest
from aiokafka.admin import NewPartitions
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from broker.topics import create
from confluent_kafka.admin import NewTopic
from support.outcomes import Account, eventually, make_batch, new_topic, number

from flowstream import compression
from flowstream.errors import SinkError, SourceError, UsageError
from flowstream.kafka.client import admin_client
from flowstream.kafka.limits import Limits
from flowstream.kafka.sink import KafkaSink
from flowstream.kafka.source import KafkaSource
from flowstream.segments.reader import SegmentReader
from flowstream.segments.sink import SegmentSink
from flowstream.segments.source import SegmentSource
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker import Broker

    from flowstream.source import Source

pytestmark = pytest.mark.anyio

HEADER_BYTES = 61
# Outside the checksum: a greater one than expected looks like missing batches.
BASE_OFFSET = range(8)
# Outside the checksum too, and without meaning in a recording.
LEADER_EPOCH = range(12, 16)


async def record(directory: Path, counts: list[int], **options: Any) -> Path:
    """Record batches of small values into topic t; return the first segment."""
    options = {"compression": "none", **options}
    sink = SegmentSink(directory, Account(), partitions=1, **options)
    await sink.start(["t"])
    first = 0
    for count in counts:
        await sink.send(make_batch("t", 0, first, count, size=12))
        first += count
    await sink.close(60)
    return directory / "t-0" / f"{0:020}.log"


async def read(url: str, topic: str = "t") -> tuple[list[int], str | None, tuple[str, ...]]:
    """Numbers read, text of the error that ended the reading, warnings."""
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


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_any_flipped_bit_is_found_and_all_before_it_is_used(
    tmp_path: Path, victim: int, compression: str
) -> None:
    segment = await record(tmp_path, [2, 3, 2], compression=compression)
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
            assert numbers[:before] == list(range(before)), (position, bit)
            greater = int.from_bytes(data[ends[victim] :][:8], "big", signed=True) > before
            if position - ends[victim] in BASE_OFFSET and greater:
                assert len(warnings) == 1, (position, bit)
                assert re.search(f"topic t, partition 0: offsets? {before} .*miss", warnings[0])
                # The next batch then goes back; there is none after the last.
                assert (victim < 2) == (error is not None), (position, bit)
                continue
            assert numbers == list(range(before)), (position, bit)
            assert error is not None, (position, bit)
            assert f"topic t, partition 0, offset {before}: damaged" in error
            assert not warnings


async def test_missing_segment_is_named_by_its_offsets(tmp_path: Path) -> None:
    """Not an error: compaction can empty the end of a segment, which looks the same."""
    await record(tmp_path, [97] * 7, segment_bytes=8_000)
    segments = sorted((tmp_path / "t-0").iterdir())
    assert len(segments) == 4
    segments[1].unlink()
    numbers, error, warnings = await read(str(tmp_path))
    assert (numbers, error) == ([*range(194), *range(388, 679)], None)
    place = f"{tmp_path}/t-0: topic t, partition 0"
    assert warnings == (f"{place}: offsets 194 to 387 missing, 194 in all: compacted, or cut out",)


async def test_torn_segment_with_a_successor_is_damage(tmp_path: Path) -> None:
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
async def test_file_that_is_not_a_segment_is_an_error(tmp_path: Path, content: bytes) -> None:
    segment = await record(tmp_path, [3])
    segment.write_bytes(content)
    numbers, error, _ = await read(str(tmp_path))
    assert numbers == []
    assert error is not None
    assert "topic t, partition 0, offset 0: damaged" in error


async def test_a_compressed_batch_of_impossible_offsets_is_an_error(tmp_path: Path) -> None:
    segment = await record(tmp_path, [3], compression="zstd")
    data = segment.read_bytes()
    segment.write_bytes(b"\x7f" + b"\xff" * 7 + data[8:-1])
    numbers, error, _ = await read(str(tmp_path))
    assert numbers == []
    assert error is not None
    assert f"damaged: a batch of offset {2**63 - 1}, cut short" in error


def test_segment_with_a_gap_is_not_continued(tmp_path: Path) -> None:
    """Records after a wrong offset would be lost with it."""
    write_batch(tmp_path, [0, 1])
    write_batch(tmp_path, [4, 5])
    sink = SegmentSink(tmp_path, Account(), partitions=1)
    with pytest.raises(
        SinkError, match=r"offset 2: damaged: offsets 2 to 3 missing, compacted or"
    ):
        sink.prepare(["t"])


# --- hostile files, with right checksums -------------------------------------------------------


def write_batch(
    directory: Path, numbers: list[int], codec: int = 0, name: str = "t-0"
) -> bytearray:
    """Append a batch whose offsets and values are these numbers."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=1 << 20,
    )  # fmt: skip
    for n in numbers:
        builder.append(n - numbers[0], 0, b"", b"%012d" % n, [])
    data = builder.build()
    data[:8] = numbers[0].to_bytes(8, "big")
    (directory / name).mkdir(parents=True, exist_ok=True)
    with (directory / name / f"{0:020}.log").open("ab") as segment:
        segment.write(data)
    return data


def write_packed(directory: Path, codec: int, packed: bytes) -> None:
    """Write a batch of these octets, as if they were compressed records."""
    data = write_batch(directory, [0])[:HEADER_BYTES]
    data[21:23] = codec.to_bytes(2, "big")
    data += packed
    data[8:12] = (len(data) - 12).to_bytes(4, "big")
    data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    (directory / "t-0" / f"{0:020}.log").write_bytes(data)


async def test_lists_are_bounded_however_many_records_a_batch_has(tmp_path: Path) -> None:
    await record(tmp_path, [16_411])
    lists = [batch async for batch in open_source(str(tmp_path), ["t"]).batches()]
    assert max(map(len, lists)) <= 8_192
    assert [number(m.value) for batch in lists for m in batch] == list(range(16_411))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 2, 1], "topic t, partition 0, offset 3: damaged: offset 1 comes after it"),
        ([0, 1, 0], "topic t, partition 0, offset 2: damaged: offset 0 comes after it"),
        ([3, 2], "topic t, partition 0, offset 0: damaged: a batch of offsets 3 to 2"),
    ],
)
async def test_offset_that_goes_back_is_damage(
    tmp_path: Path, numbers: list[int], expected: str
) -> None:
    write_batch(tmp_path, numbers)
    found, error, _ = await read(str(tmp_path))
    assert error is not None
    assert expected in error
    assert found == []


async def test_gaps_of_all_kinds_are_one_warning(tmp_path: Path) -> None:
    """Before the first batch, within one and between two, as compaction leaves them."""
    write_batch(tmp_path, [2, 3, 7])
    write_batch(tmp_path, [8, 9])
    write_batch(tmp_path, [1_011])
    numbers, error, warnings = await read(str(tmp_path))
    assert (numbers, error) == ([2, 3, 7, 8, 9, 1_011], None)
    place = f"{tmp_path}/t-0: topic t, partition 0"
    assert warnings == (f"{place}: offsets 0 to 1 missing, 1,006 in all: compacted, or cut out",)


PEAK = """
import resource, sys
from pathlib import Path
from flowstream.segments.source import SegmentSource

try:
    list(SegmentSource(Path(sys.argv[1])).read_partition("t", 0))
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.parametrize(("codec", "name"), [(1, "gzip"), (4, "zstd")])
def test_batch_that_unpacks_to_gigabytes_takes_bounded_memory(
    tmp_path: Path, codec: int, name: str
) -> None:
    part = bytes(64 << 20)
    packed = gzip.compress(part, 1) if name == "gzip" else bytes(cramjam.zstd.compress(part))
    write_packed(tmp_path, codec, packed * 64)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert f"partition 0, offset 0: a batch compressed with {name} that cannot" in done.stderr
    # MiB; the batch has 4 GiB.
    assert int(done.stdout) < 1_000


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_compressed_batch_has_a_limit(monkeypatch: pytest.MonkeyPatch, codec: int) -> None:
    encode = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}[codec]
    plain = os.urandom(1_009) * 97
    packed = encode(plain)
    monkeypatch.setattr(compression, "MAX_UNPACKED", len(plain))
    assert compression.unpack(codec, packed) == plain
    if codec == 2:
        raw = bytes(snappy_encode(plain, xerial_compatible=False))
        assert compression.unpack(codec, raw) == plain
    for wrong in (packed[:-1], packed[: len(packed) // 2]):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            compression.unpack(codec, wrong)
    monkeypatch.setattr(compression, "MAX_UNPACKED", len(plain) - 1)
    with pytest.raises(ValueError, match="cannot be unpacked within 0 MiB"):
        compression.unpack(codec, packed)


def test_unknown_compression_is_named() -> None:
    with pytest.raises(ValueError, match="an unknown compression, 5"):
        compression.unpack(5, b"")


@pytest.mark.parametrize("length", [0, -4, 1 << 30])
def test_block_of_an_impossible_length_is_an_error(length: int) -> None:
    packed = snappy_encode(b"x" * 1_009)[:16] + length.to_bytes(4, "big", signed=True)
    with pytest.raises(ValueError, match=f"a block of {length} bytes"):
        compression.unpack(2, packed + bytes(100))


async def test_endless_length_of_a_record_is_bounded(tmp_path: Path) -> None:
    """A varint of millions of octets in a batch that is longer than the file."""
    segment = await record(tmp_path, [1])
    head = bytearray(segment.read_bytes()[:HEADER_BYTES])
    head[8:12] = (64 << 20).to_bytes(4, "big")
    segment.write_bytes(head + b"\xff" * (16 << 20))
    numbers, error, warnings = await read(str(tmp_path))
    assert (numbers, error) == ([], None)
    assert "offset 0: the last batch is cut short at byte 0" in warnings[0]


async def test_directory_with_another_name_is_not_a_partition(tmp_path: Path) -> None:
    await record(tmp_path, [3])
    (tmp_path / "t-999999999").mkdir()
    (tmp_path / "t-0" / f"{'9' * 20}.log").touch()
    assert await read(str(tmp_path)) == ([0, 1, 2], None, ())
    assert await open_source(str(tmp_path), ["t"]).sizes() == {"t": [3]}


async def test_partition_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "t-0").touch()
    _, error, _ = await read(str(tmp_path))
    assert error == f"{tmp_path}/t-0: topic t, partition 0: Not a directory"


# --- following --------------------------------------------------------------------------------


class Following:
    """Numbers that a following source has yielded so far, by partition and in order."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: dict[int, list[int]] = {}

    async def run(self) -> None:
        async for batch in self.source.batches(follow=True):
            assert batch
            for message in batch:
                self.found.setdefault(message.partition, []).append(number(message.value))

    async def reaches(self, expected: dict[int, list[int]]) -> None:
        await eventually(lambda: self.found == expected)


async def test_growing_recording_is_followed(tmp_path: Path) -> None:
    """Through new batches and segments, a batch written in two parts, a new partition."""
    recording, other = tmp_path / "recording", tmp_path / "other"
    await record(recording, [97], segment_bytes=7_000)
    following = Following(SegmentSource(recording, ["t"]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.run)
        await following.reaches({0: list(range(97))})

        sink = SegmentSink(
            recording, Account(), partitions=1, segment_bytes=7_000, compression="none"
        )
        await sink.start(["t"])
        for first in range(97, 97 * 7, 97):
            await sink.send(make_batch("t", 0, first, 97, size=12))
            await sink.flush(60)
            await following.reaches({0: list(range(first + 97))})
        await sink.close(60)
        assert len(list((recording / "t-0").iterdir())) == 4

        data = write_batch(other, [97 * 7, 97 * 7 + 1])
        segment = max((recording / "t-0").iterdir())
        with segment.open("ab", buffering=0) as file:
            file.write(data[:70])
            await eventually(lambda: following.source.warnings)
            assert "offset 679: the last batch is cut short" in following.source.warnings[0]
            assert following.found == {0: list(range(97 * 7))}
            file.write(data[70:])
        await following.reaches({0: list(range(97 * 7 + 2))})
        await eventually(lambda: not following.source.warnings)

        write_batch(other, list(range(11)), name="t-3")
        (other / "t-3").rename(recording / "t-3")
        await following.reaches({0: list(range(97 * 7 + 2)), 3: list(range(11))})
        tasks.cancel_scope.cancel()


async def test_damage_ends_the_following(tmp_path: Path) -> None:
    segment = await record(tmp_path, [97])
    numbers: list[int] = []

    async def read_on() -> None:
        async for batch in SegmentSource(tmp_path, ["t"]).batches(follow=True):
            numbers.extend(number(m.value) for m in batch)
            with segment.open("ab") as file:
                file.write(b"\xff" * 100)

    with anyio.fail_after(60), pytest.raises(SourceError, match="partition 0, offset 97: damaged"):
        await read_on()
    assert numbers == list(range(97))


async def test_topic_is_followed_through_new_partitions(broker: Broker) -> None:
    topic = new_topic()
    sink = KafkaSink(broker.cluster, Account(), partitions=2, limits=Limits(metadata_age=0.2))
    await sink.start([topic])
    await sink.send(make_batch(topic, 1, 0, 4001))
    await sink.flush(60)
    following = Following(KafkaSource(broker.cluster, [topic], metadata_age=0.2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(following.run)
        await following.reaches({1: list(range(4001))})
        await sink.send(make_batch(topic, 0, 0, 7))
        await sink.send(make_batch(topic, 1, 4001, 11))
        await following.reaches({0: list(range(7)), 1: list(range(4012))})
        async with admin_client(broker.cluster) as admin:
            await admin.create_partitions({topic: NewPartitions(3)})
        await eventually(lambda: sink.partitions(topic) == 3)
        await sink.send(make_batch(topic, 2, 0, 13))
        await sink.send(make_batch(topic, 1, 4012, 1))
        await following.reaches({0: list(range(7)), 1: list(range(4013)), 2: list(range(13))})
        tasks.cancel_scope.cancel()
    await sink.close(5)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_following_survives_a_broker_that_restarts(
    broker_factory: Callable[..., Broker],
) -> None:
    restarted = broker_factory()
    sink = KafkaSink(restarted.cluster, Account(), partitions=1)
    await sink.start(["t"])
    await sink.send(make_batch("t", 0, 0, 101))
    following = Following(KafkaSource(restarted.cluster, ["t"]))
    async with anyio.create_task_group() as tasks:
        await sink.flush(60)
        tasks.start_soon(following.run)
        await following.reaches({0: list(range(101))})
        await anyio.to_thread.run_sync(restarted.restart)
        await sink.send(make_batch("t", 0, 101, 103))
        await following.reaches({0: list(range(204))})
        tasks.cancel_scope.cancel()
    await sink.close(5)


# ----------------------------------------------------------------------------------------------


async def test_missing_recording_or_topic_is_named(tmp_path: Path) -> None:
    _, error, _ = await read(str(tmp_path / "none"))
    assert error == f"{tmp_path}/none: No such file or directory; name a recording"
    _, error, _ = await read(str(tmp_path))
    assert error == f"{tmp_path}: no topic t in this recording"
    with pytest.raises(UsageError, match="cannot be read back"):
        open_source("stdout:", ["t"])


async def test_log_directory_of_a_broker_is_a_recording(broker: Broker, tmp_path: Path) -> None:
    sink = KafkaSink(broker.cluster, Account(), partitions=1)
    topic = f"source-{tmp_path.name}"
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 4001))
    await sink.flush(60)
    await sink.close(5)
    copy = tmp_path / f"{topic}-0"
    shutil.copytree(broker.log_dir / copy.name, copy)
    assert await read(str(tmp_path), topic) == (list(range(4001)), None, ())
    assert await read(broker.url, topic) == (list(range(4001)), None, ())


async def test_damage_in_a_broker_is_named_after_everything_before_it(
    broker_factory: Callable[..., Broker],
) -> None:
    """In the third batch of one of three partitions, all of which are in one response."""
    damaged = broker_factory()
    sink = KafkaSink(damaged.cluster, Account(), partitions=3)
    await sink.start(["t"])
    for first in (0, 1_009, 2_018, 3_027):
        for partition in range(3):
            await sink.send(make_batch("t", partition, first, 1_009, size=12))
        await sink.flush(60)
    await sink.close(5)
    damaged.stop()
    segment = damaged.log_dir / "t-1" / f"{0:020}.log"
    ends = batch_ends(segment)
    data = bytearray(segment.read_bytes())
    data[ends[2] - 1] ^= 1
    segment.write_bytes(data)
    damaged.start()
    found: dict[int, list[int]] = {}

    async def read_all() -> None:
        async for batch in open_source(damaged.url, ["t"]).batches():
            for message in batch:
                found.setdefault(message.partition, []).append(number(message.value))

    with pytest.raises(SourceError, match=r"topic t, partition 1, offset 2018 of 4036: .*CRC"):
        await read_all()
    assert found[1] == list(range(2_018))
    # The others have no gap as far as they were read.
    for partition in (0, 2):
        assert found.get(partition, []) == list(range(len(found.get(partition, []))))


async def test_missing_kafka_topic_or_broker_is_named(broker: Broker) -> None:
    assert await read(broker.url, "no-such") == ([], f"{broker.url}: no topic no-such", ())
    _, error, _ = await read("kafka://127.0.0.1:9")
    assert error is not None
    assert "kafka://127.0.0.1:9: cannot be read" in error


async def test_missing_kafka_topic_is_looked_for_behind_prefixes(broker: Broker) -> None:
    name = new_topic()
    topics = [f"{prefix}.{name}" for prefix in "dcba"]
    create(broker, *(NewTopic(topic, 1, 1) for topic in (*topics, f"more-{name}")))
    _, error, _ = await read(broker.url, name)
    assert error == f"{broker.url}: no topic {name}; did you mean a.{name}, b.{name}, c.{name}?"
    _, error, _ = await read(broker.url, f"site.{name}")
    assert error == f"{broker.url}: no topic site.{name}"

"""Retention of recordings: the oldest closed segments go, and readers cope with what is left."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
from support.audited import sums
from support.outcomes import Account, make_batch
from support.published import LOSSES, Published, stages

from flowstream.audit import Audit
from flowstream.config.units import octets, seconds
from flowstream.records import Loss, StageCounts
from flowstream.segments.partition import PartitionReader
from flowstream.segments.retention import MIN_SEGMENT_BYTES, Retention
from flowstream.segments.sink import SegmentSink
from flowstream.segments.writer import SEGMENT_BYTES
from flowstream.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from flowstream.messages import Message, MessageBatch

pytestmark = pytest.mark.anyio

SEGMENT = 26_000
BATCH = 101  # records: a segment has one batch of about 20 kB


def batch_at(partition: int, first: int, time_ms: int) -> MessageBatch:
    batch = make_batch("t", partition, first, BATCH)
    return dataclasses.replace(batch, timestamps_ms=[time_ms] * BATCH)


async def record(
    directory: Path,
    *batches: MessageBatch,
    retention: Retention | None = None,
    partitions: int = 2,
) -> Account:
    account = Account()
    sink = SegmentSink(
        directory, account, partitions=partitions, segment_bytes=SEGMENT, retention=retention
    )
    await sink.start(["t"])
    for batch in batches:
        await sink.send(batch)
    await sink.close(60)
    assert sink.fault is None
    return account


def in_order(partition: int, count: int, start_ms: int = 1_000) -> list[MessageBatch]:
    return [batch_at(partition, n * BATCH, start_ms + n) for n in range(count)]


def segments(directory: Path, partition: int) -> list[int]:
    """First offset of each segment."""
    return sorted(int(path.stem) for path in (directory / f"t-{partition}").glob("*.log"))


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("t-*/*.log"))


async def read(directory: Path) -> list[Message]:
    return [m async for batch in open_source(str(directory), ["t"]).batches() for m in batch]


async def test_without_limits_everything_stays(tmp_path: Path) -> None:
    await record(tmp_path, *in_order(0, 23))
    assert len(segments(tmp_path, 0)) == 23


async def test_a_recording_stays_within_its_size(tmp_path: Path) -> None:
    limit = 5 * SEGMENT
    account = await record(tmp_path, *in_order(0, 23), retention=Retention(size=limit))
    assert len(account.acknowledged_values) == 23 * BATCH
    assert limit - SEGMENT < size(tmp_path) <= limit
    first, *_, last = segments(tmp_path, 0)
    assert (first > 0, last) == (True, 22 * BATCH)
    source = open_source(str(tmp_path), ["t"])
    messages = [m async for batch in source.batches() for m in batch]
    assert [m.offset for m in messages] == list(range(first, 23 * BATCH))
    # It was retention: nothing is missing between what is there.
    assert source.warnings == []
    assert await source.sizes() == {"t": [23 * BATCH - first, 0]}


async def test_the_oldest_by_its_newest_record_goes_first(tmp_path: Path) -> None:
    old, young = in_order(0, 4, 1_000), in_order(1, 4, 9_000)
    await record(tmp_path, *old, *young, retention=Retention(size=5 * SEGMENT))
    assert segments(tmp_path, 0) == [2 * BATCH, 3 * BATCH]
    assert segments(tmp_path, 1) == [0, BATCH, 2 * BATCH, 3 * BATCH]


async def test_an_active_segment_is_never_deleted(tmp_path: Path) -> None:
    await record(tmp_path, *in_order(0, 3), *in_order(1, 3), retention=Retention(size=1))
    assert segments(tmp_path, 0) == segments(tmp_path, 1) == [2 * BATCH]
    assert len(await read(tmp_path)) == 2 * BATCH


async def test_segments_older_than_the_age_are_deleted(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    hour = 3_600_000
    old = [batch_at(0, n * BATCH, now - 5 * hour + n) for n in range(3)]
    young = [batch_at(0, (3 + n) * BATCH, now) for n in range(2)]
    # Partition 1 gets nothing more: its only segment is closed by its age.
    idle = batch_at(1, 0, now - 5 * hour)
    await record(tmp_path, idle, *old, *young, retention=Retention(age_ms=4 * hour))
    assert segments(tmp_path, 0) == [3 * BATCH, 4 * BATCH]
    assert segments(tmp_path, 1) == [BATCH]
    assert {message.partition for message in await read(tmp_path)} == {0}


async def test_a_recording_that_is_continued_is_limited_too(tmp_path: Path) -> None:
    await record(tmp_path, *in_order(0, 11))
    later = batch_at(0, 11 * BATCH, 5_000)
    await record(tmp_path, later, retention=Retention(size=3 * SEGMENT))
    assert size(tmp_path) <= 3 * SEGMENT
    assert segments(tmp_path, 0)[-1] == 11 * BATCH
    assert (await read(tmp_path))[-1].offset == 12 * BATCH - 1


async def test_a_segment_that_cannot_be_deleted_stops_nothing(tmp_path: Path) -> None:
    account = Account()
    retention = Retention(size=1)
    sink = SegmentSink(tmp_path, account, partitions=1, segment_bytes=SEGMENT, retention=retention)
    await sink.start(["t"])
    first, second, third = in_order(0, 3)
    await sink.send(first)
    await sink.flush(60)
    # In place of the segment that will be deleted first.
    (tmp_path / "t-0" / f"{0:020}.log").unlink()
    (tmp_path / "t-0" / f"{0:020}.log").mkdir()
    for batch in (second, third):
        await sink.send(batch)
    await sink.close(60)
    assert len(account.acknowledged_values) == 3 * BATCH
    assert sink.fault is None
    assert segments(tmp_path, 0) == [0, BATCH, 2 * BATCH]


async def test_a_segment_deleted_while_it_is_to_be_read_is_passed_over(tmp_path: Path) -> None:
    await record(tmp_path, *in_order(0, 5))
    reader = PartitionReader(tmp_path, "t", 0)
    lists = reader.read()
    offsets = [message.offset for message in next(lists)]
    for number in (1, 2):
        (tmp_path / "t-0" / f"{number * BATCH:020}.log").unlink()
    offsets += [message.offset for messages in lists for message in messages]
    assert offsets == [*range(BATCH), *range(3 * BATCH, 5 * BATCH)]
    assert f"offsets {BATCH} to {2 * BATCH - 1} missing, {2 * BATCH} in all" in str(reader.missing)


def test_segments_are_small_enough_for_the_limit() -> None:
    assert Retention().segment_bytes(18) == SEGMENT_BYTES
    assert Retention(size=1 << 30).segment_bytes(18) == (1 << 30) // 72
    assert Retention(size=1 << 50).segment_bytes(18) == SEGMENT_BYTES
    assert Retention(size=1 << 20).segment_bytes(18) == MIN_SEGMENT_BYTES


def test_units() -> None:
    assert [octets(text) for text in ("500MB", "1GiB", "2TiB", "unlimited")] == [
        500_000_000, 1 << 30, 2 << 40, None,
    ]  # fmt: skip
    assert [seconds(text) for text in ("90min", "12h", "7d", "unlimited")] == [
        5_400, 43_200, 604_800, None,
    ]  # fmt: skip


def audited(published: Published, *, from_offset: int) -> list[str]:
    """Problems of a run whose partition 0 of the flows begins at an offset."""
    messages = [
        message
        for message in published.messages()
        if (message.topic, message.partition) != ("flowstream.flows", 0)
        or message.offset >= from_offset
    ]
    accounts = Audit()
    accounts.add([message._replace(timestamp_ms=1_700_000_000_000) for message in messages])
    result = accounts.result()
    (run,) = result.runs
    assert result.holds == (not run.problems)
    return run.problems


def test_the_audit_says_from_when_on_it_can_check() -> None:
    published = Published("json")
    assert audited(published, from_offset=0) == []
    # Partition 0 has every fifth record: 0, 5 and 10 are gone, and 15 is the first.
    packets, octets_ = sums(published.flows[[0, 5, 10]])
    assert audited(published, from_offset=15) == [
        (
            f"veth3 ingress: difference of +{packets:,} packets and +{octets_:,} octets: "
            "seen, but neither published nor counted as lost, or deleted since"
        ),
        (
            "flowstream.flows: cannot be checked before 2023-11-14T22:13:20.000Z: retention "
            "deleted records (partitions begin above offset 0), up to 3 of this run"
        ),
    ]


def test_a_loss_behind_what_was_deleted_is_told_apart() -> None:
    published = Published("json")
    del published.values[30]
    _, cannot, missing = audited(published, from_offset=15)
    assert "cannot be checked" in cannot
    assert missing == (
        "flowstream.flows: 1 record is missing without a cause (4 not there; seq 0, 5, 10, 30)"
    )


def test_lost_and_deleted_records_do_not_pass_for_each_other() -> None:
    """As many are counted as lost as were deleted: the sums might fit by chance."""
    published = Published("json")
    packets, octets_ = sums(published.flows[[0, 5, 10]])
    published.change_counters(
        1,
        losses=LOSSES | {"delivery_timeout": Loss(3, packets, octets_)},
        stages=stages(StageCounts(42, 31, 31, 28, 0, 3, 0)),
    )
    (problem,) = audited(published, from_offset=15)
    assert "cannot be checked" in problem

"""A damaged spool: what is intact is read, what is not is counted, and nothing runs forever."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from structlog.testing import capture_logs
from support.spools import (
    EPOCH,
    TOPIC,
    amounts,
    append,
    drain,
    files,
    filled,
    flows,
    log_of,
    lost,
    numbers,
    opened,
    records_gone,
    tally_of,
    unread,
)

from flowstream.accounting import terms
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.snapshot import SpoolState
from flowstream.errors import SinkError
from flowstream.records.counters import SpoolCounts
from flowstream.segments import checkpoint, tallies
from flowstream.segments.retention import Retention
from flowstream.segments.source import SegmentSource
from flowstream.segments.spooled import Lost
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.segments.spool import Spool

COUNTS = (7, 5, 3)
# Its place in the header of a batch.
FIRST_TIMESTAMP = 27
ALL = list(range(15))
LAST = range(12, 15)


@pytest.fixture
def small() -> Iterator[Path]:
    """A spool of three batches, in memory: it is opened a thousand times."""
    with tempfile.TemporaryDirectory(prefix="flowstream-spool-", dir="/dev/shm") as directory:
        with opened(Path(directory) / "small") as spool:
            first = 0
            for count in COUNTS:
                append(spool, flows(first, count, size=12))
                first += count
        yield Path(directory) / "small"


def variants(directory: Path, file: Path, contents: Iterator[bytes]) -> Iterator[Spool]:
    """Open a copy of the spool for each of the contents of one file; close it afterwards."""
    copy = directory.with_name("copy")
    for content in contents:
        shutil.copytree(directory, copy)
        (copy / file.relative_to(directory)).write_bytes(content)
        with opened(copy) as spool:
            yield spool
        shutil.rmtree(copy)


def cuts(file: Path, begin: int = 0) -> Iterator[bytes]:
    data = file.read_bytes()
    return (data[:end] for end in range(begin, len(data)))


def flips(file: Path) -> Iterator[bytes]:
    """Flip a bit of every octet, each time another one."""
    data = file.read_bytes()
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


def damaged(numbers: range | list[int]) -> Lost:
    return lost(numbers, terms.SPOOL_DAMAGED)


def read_by_others(directory: Path) -> tuple[int, list[str]]:
    """Records that the tools read, and their warnings."""
    source = SegmentSource(directory)
    lists = [part for place in source.partitions() for part in source.read_partition(*place)]
    return sum(map(len, lists)), list(source.warnings)


def last_batch(small: Path) -> int:
    """Where the last batch begins."""
    *_, last = tallies.entries(tally_of(small).read_bytes())
    return last.entry.position


def test_a_last_batch_that_is_cut_short_is_counted_and_cut_off(small):
    begin = last_batch(small)
    for place, spool in enumerate(variants(small, log_of(small), cuts(log_of(small), begin))):
        # Without a single octet of it, it was never said to be written.
        expected = [damaged(LAST)] if place else []
        assert spool.gone() == expected
        assert spool.records == 12
        assert numbers(unread(spool)) == ALL[:12]
        append(spool, flows(15, 4, size=12))
        spool.save()
        count, warnings = read_by_others(small.with_name("copy"))
        assert count == 16
        # The offsets of the batch that is lost are not used again.
        assert ["missing" in each for each in warnings] == [True] * bool(place)
        spool.close()
        with opened(small.with_name("copy")) as again:
            assert again.gone() == []
            assert numbers(unread(again)) == [*ALL[:12], *range(15, 19)]
    assert place > 60


def test_a_sidecar_that_is_cut_short_loses_amounts_only(small):
    for spool in variants(small, tally_of(small), cuts(tally_of(small))):
        found = unread(spool)
        assert (numbers(found), spool.gone()) == (ALL, [])
        for each in found:
            spool.acknowledge(each)
        assert (spool.records, spool.amounts) == (0, {})
        known = [each for each in found if each.agent_epoch is not None]
        assert known == found[: len(known)]
        assert [each.amounts for each in known] == [
            amounts(range(7)), amounts(range(7, 12)), amounts(LAST)
        ][: len(known)]  # fmt: skip


def test_a_checkpoint_that_is_cut_short_repeats_what_was_published(small):
    with opened(small) as spool:
        spool.acknowledge(spool.read())
        spool.save({EPOCH: [b"counters"]})
    for spool in variants(small, small / "checkpoint", cuts(small / "checkpoint")):
        assert spool.runs == {}
        assert numbers(unread(spool)) == ALL


def test_a_flipped_bit_in_a_segment_costs_one_batch_at_most(small):
    lost = []
    for spool in variants(small, log_of(small), flips(log_of(small))):
        got = numbers(unread(spool))
        gone = spool.gone()
        missing = [n for n in ALL if n not in got]
        assert gone == ([damaged(missing)] if missing else [])
        assert sorted([*got, *missing]) == ALL
        assert spool.records == len(got)
        lost.append(len(missing))
    assert set(lost) == {0, *COUNTS}


def test_a_flipped_bit_in_a_sidecar_loses_amounts_only(small):
    unknown = 0
    for spool in variants(small, tally_of(small), flips(tally_of(small))):
        found = unread(spool)
        assert (numbers(found), spool.gone()) == (ALL, [])
        assert sum(each.agent_epoch is None or each.batch.tally is None for each in found) <= 1
        unknown += sum(each.agent_epoch is None for each in found)
    assert unknown > 100


def test_a_flipped_bit_in_the_checkpoint_repeats_what_was_published(small):
    with opened(small) as spool:
        spool.acknowledge(spool.read())
        spool.save({EPOCH: [b"counters"]})
    for spool in variants(small, small / "checkpoint", flips(small / "checkpoint")):
        assert numbers(unread(spool)) == ALL


def test_without_a_sidecar_damage_costs_the_rest_of_the_segment(small):
    tally_of(small).unlink()
    results = set()
    for spool in variants(small, log_of(small), flips(log_of(small))):
        got = numbers(unread(spool))
        results.add(tuple(got))
        # What the headers told of, and did not come, is counted.
        assert spool.records == len(got)
    assert {(), tuple(ALL[:7]), tuple(ALL[:12]), tuple(ALL)} <= results
    # Where only the records are damaged, what follows is read.
    assert (*ALL[:7], *LAST) in results


@pytest.mark.parametrize("name", ["a sidecar", "a segment without its sidecar"])
def test_a_file_that_the_disk_cannot_read_holds_up_nothing(small, monkeypatch, name):
    """As on a bad sector: the file opens, and reading it is EIO."""
    with opened(small) as spool:
        append(spool, flows(100, 3, partition=1))
    bad = tally_of(small) if name == "a sidecar" else log_of(small)
    if bad == log_of(small):
        tally_of(small).unlink()

    def read(descriptor: int, size: int, position: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), bad.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, position)

    pread = os.pread
    monkeypatch.setattr(os, "pread", read)
    size = log_of(small).stat().st_size
    with opened(small) as spool:
        intact = ALL if name == "a sidecar" else []
        assert sorted(numbers(unread(spool))) == [*intact, 100, 101, 102]
        assert log_of(small).stat().st_size == size


@pytest.mark.parametrize("first_ms", [-(2**63), -1, 2**63 - 1])
def test_an_impossible_time_is_no_age_of_the_spool(small, first_ms):
    tally_of(small).unlink()
    data = bytearray(log_of(small).read_bytes())
    struct.pack_into(">q", data, FIRST_TIMESTAMP, first_ms)
    log_of(small).write_bytes(data)
    with opened(small) as spool:
        state = SpoolState(spool.octets, spool.oldest_ms * 1_000_000)
        counts = SpoolCounts(*RecordAmount(), *state)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(counts), type=SpoolCounts) == counts
        assert numbers(unread(spool)) == ALL[7:]
        assert records_gone(spool.gone()) == 7


def test_damage_that_comes_while_it_runs_is_counted(small):
    with opened(small) as spool:
        data = bytearray(log_of(small).read_bytes())
        data[last_batch(small) - 1] ^= 1
        log_of(small).write_bytes(data)
        assert numbers(unread(spool)) == [*range(7), *LAST]
        assert spool.gone() == [damaged(range(7, 12))]
        spool.save()
    # Lost for good: a second reading does not count it again.
    with opened(small) as spool:
        assert numbers(unread(spool)) == [*range(7), *LAST]
        assert spool.gone() == []


@pytest.mark.parametrize("leave", [0, 100])
def test_a_segment_that_vanishes_while_it_runs_is_counted(small, leave):
    with opened(small) as spool:
        in_flight = spool.read()
        assert numbers([in_flight]) == list(range(7))
        if leave:
            log_of(small).write_bytes(log_of(small).read_bytes()[:leave])
        else:
            log_of(small).unlink()
        assert unread(spool) == []
        assert spool.gone() == [damaged(range(7, 15))]
        assert spool.records == 7
        spool.acknowledge(in_flight)
        assert (spool.records, spool.amounts, spool.gone()) == (0, {}, [])


@pytest.mark.parametrize("sidecar", [False, True])
def test_a_segment_that_vanishes_is_counted_before_it_is_read(small, sidecar):
    with opened(small) as spool:
        batch = spool.read()
        log_of(small).unlink()
        if not sidecar:
            tally_of(small).unlink()
        spool.tidy(0)
        assert spool.gone() == [damaged(range(7, 15))]
        assert (spool.records, spool.read()) == (7, None)
        spool.acknowledge(batch)
        assert (spool.records, spool.amounts) == (0, {})
        # Nothing is written to a file that is gone.
        append(spool, flows(15, 3))
        assert numbers(unread(spool)) == [15, 16, 17]


def test_one_line_of_log_for_each_damaged_segment(tmp_path):
    filled(tmp_path, *[20] * 50, segment_bytes=50_000)
    with opened(tmp_path) as spool:
        logs = files(tmp_path, ".log")
        for name in logs:
            (tmp_path / name).write_bytes(bytes((tmp_path / name).stat().st_size))
        with capture_logs() as lines:
            assert unread(spool) == []
        assert records_gone(spool.gone()) == 1_000
    assert [each["event"] for each in lines] == ["spool_damaged"] * len(logs)
    assert 1 < len(logs) < 20


@pytest.mark.parametrize("in_flight", [0, 7, 12])
@pytest.mark.parametrize("dropped", [False, True])
def test_a_directory_that_is_deleted_while_it_runs_is_counted(small, in_flight, dropped):
    with opened(small, retention=Retention(size=1 << 20 if not dropped else 1)) as spool:
        batches = [spool.read() for _ in range([0, 7, 12].index(in_flight))]
        assert numbers(batches) == list(range(in_flight))
        shutil.rmtree(log_of(small).parent)
        spool.tidy(0)
        assert unread(spool) == []
        # Without the sidecar, the amounts are those in memory.
        assert spool.gone() == [damaged(range(in_flight, 15))]
        assert spool.records == in_flight
        for each in batches:
            spool.acknowledge(each)
        assert (spool.records, spool.amounts) == (0, {})
        spool.save()
        assert spool.octets == 0
        written, error = spool.append(flows(15, 1), EPOCH)
        assert (written, error.errno) == (0, errno.ENOENT)


def test_a_segment_that_is_deleted_while_it_is_written_is_never_durable(tmp_path):
    with opened(tmp_path) as spool:
        append(spool, flows(0, 7))
        spool.sync()
        for each in (log_of(tmp_path), tally_of(tmp_path)):
            each.unlink()
        append(spool, flows(7, 5))
        with pytest.raises(OSError, match="deleted while it was written"):
            spool.sync()
        # Into a file of its own.
        append(spool, flows(12, 3))
        assert numbers(unread(spool)) == list(LAST)
        assert spool.gone() == [damaged(range(12))]
        assert spool.records == 3
        spool.save()
        spool.sync()
        assert files(tmp_path, ".log") == [f"{TOPIC}-0/{12:020}.log"]


def test_segments_that_are_missing_in_the_middle_are_counted(tmp_path):
    filled(tmp_path, *[20] * 5, segment_bytes=5_000)
    log_of(tmp_path, 40).unlink()
    # With its sidecar the amounts are known.
    log_of(tmp_path, 60).unlink()
    tally_of(tmp_path, 60).unlink()
    with opened(tmp_path) as spool:
        assert drain_without_save(spool) == [*range(40), *range(80, 100)]
        unknown = Lost(None, Stream.FLOWS, False, terms.SPOOL_DAMAGED, 20, ())
        assert sorted(spool.gone(), key=repr) == sorted(
            [unknown, damaged(range(40, 60))], key=repr
        )
    # Nothing was final: the next run counts the same.
    with opened(tmp_path) as spool:
        assert drain(spool) == [*range(40), *range(80, 100)]
        assert files(tmp_path) == []
        assert records_gone(spool.gone()) == 40
        spool.save()
    with opened(tmp_path) as spool:
        assert (spool.records, spool.gone()) == (0, [])


def drain_without_save(spool):
    found = unread(spool)
    for each in found:
        spool.acknowledge(each)
    return numbers(found)


@pytest.mark.parametrize("suffix", [".log", ".tally"])
@pytest.mark.parametrize("content", [b"", b"\0" * 1_000, b"something else, " * 100])
def test_files_with_other_contents_are_given_up(small, suffix, content):
    """A file in place of a segment or a sidecar; the other partitions go on."""
    with opened(small) as spool:
        append(spool, flows(15, 4, 1, size=12))
    log_of(small).with_suffix(suffix).write_bytes(content)
    with opened(small) as spool:
        got = drain(spool)
        if suffix == ".tally":
            assert got == [*ALL, *range(15, 19)]
        else:
            assert got == list(range(15, 19))
            assert records_gone(spool.gone()) in (0, 15)
        assert files(small) == []


def test_a_batch_that_says_more_than_it_has_is_damaged(small):
    """A checksum that is right: another program wrote it."""
    data = bytearray(log_of(small).read_bytes())
    end = last_batch(small)
    batch = data[end:]
    batch[57:61] = (2).to_bytes(4, "big")
    batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")
    log_of(small).write_bytes(data[:end] + batch)
    with opened(small) as spool:
        assert numbers(unread(spool)) == ALL[:12]
        assert spool.gone() == [damaged(LAST)]


def crc32c(data: bytes) -> int:
    from aiokafka.record.util import calc_crc32c

    return calc_crc32c(data)


def versioned(data: bytes, version: int) -> bytes:
    """A checkpoint of another version, intact."""
    body = data[20:] + b"new"
    prefix = data[:8] + version.to_bytes(4, "big") + len(body).to_bytes(4, "big")
    return prefix + zlib.crc32(prefix + body).to_bytes(4, "big") + body


def test_a_checkpoint_of_an_unknown_version_is_refused_and_everything_kept(small):
    path = small / "checkpoint"
    path.write_bytes(versioned(path.read_bytes(), checkpoint.VERSION + 1))
    refused(small, "version 2 of the format is unknown; use the release that wrote it")


def test_a_sidecar_of_an_unknown_version_is_refused_and_everything_kept(small):
    path = tally_of(small)
    head = path.read_bytes()[:8] + (tallies.VERSION + 1).to_bytes(4, "big")
    rest = path.read_bytes()[tallies.FIRST_ENTRY :]
    path.write_bytes(head + zlib.crc32(head).to_bytes(4, "big") + rest)
    refused(small, f"{path}: version 2 of the spool's format is unknown; use the release")


def refused(directory: Path, text: str) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(SinkError) as caught:
        opened(directory)
    assert text in str(caught.value)
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert after == before


def test_a_checkpoint_with_the_wrong_contents_is_damaged(small):
    for body in (b"", b"\xc0", b"\x81\xa4runs\x07", b"\xff" * 100):
        prefix = b"fsspool\n" + (1).to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data = prefix + zlib.crc32(prefix + body).to_bytes(4, "big") + body
        (small / "checkpoint").write_bytes(data)
        with opened(small) as spool:
            assert numbers(unread(spool)) == ALL


def test_a_damaged_sidecar_of_a_recording_that_grows_is_read_on(tmp_path):
    """The active segment's sidecar is damaged: what is appended later is read all the same."""
    spool = opened(tmp_path)
    append(spool, flows(0, 20))
    assert numbers(unread(spool)) == list(range(20))
    append(spool, flows(20, 20))
    data = tally_of(tmp_path).read_bytes()
    tally_of(tmp_path).write_bytes(data[:-300])
    append(spool, flows(40, 20))
    found = unread(spool)
    assert numbers(found) == list(range(20, 60))
    for each in found:
        spool.acknowledge(each)
    assert spool.gone() == []

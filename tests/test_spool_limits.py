"""Limits of the spool: the oldest segment goes first, and what it had is counted exactly."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.outcomes import TIMESTAMP_MS
from support.spools import (
    EPOCH,
    append,
    drain,
    files,
    flows,
    log_of,
    lost,
    numbers,
    opened,
    records_gone,
    unread,
)

from flowstream.accounting import terms
from flowstream.segments.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
# Segments of one batch, about 5 kB and 0.3 kB of sidecar.
SEGMENT = {"segment_bytes": 5_000}
HOUR = 3_600_000


def on_disk(directory: Path) -> int:
    return sum((directory / name).stat().st_size for name in files(directory))


def test_the_oldest_of_all_partitions_goes_first(tmp_path):
    size = 10 * 5_300
    with opened(tmp_path, retention=Retention(size=size), **SEGMENT) as spool:
        for n in range(23):
            append(spool, flows(n * 20, 20, n % 3))
        assert spool.exceeded
        before = spool.octets
        spool.tidy(TIMESTAMP_MS)
        assert size - 5_300 < spool.octets <= size < before
        (gone,) = spool.gone()
        assert gone == lost(range(gone.records), terms.SPOOL_FULL)
        assert spool.records == 460 - gone.records
        # The files go once it is written down that the records are gone.
        assert on_disk(tmp_path) == before
        spool.save()
        assert on_disk(tmp_path) == spool.octets <= size
        assert drain(spool) == list(range(gone.records, 460))
        assert spool.gone() == []


def test_nothing_is_final_before_the_checkpoint(tmp_path):
    """The process ends in between: nothing is lost, or it is counted again."""
    with opened(tmp_path, **SEGMENT) as spool:
        for n in range(5):
            append(spool, flows(n * 20, 20))
    with opened(tmp_path, retention=Retention(size=11_000), **SEGMENT) as spool:
        spool.tidy(TIMESTAMP_MS)
        assert records_gone(spool.gone()) == 60
    with opened(tmp_path, retention=Retention(size=11_000), **SEGMENT) as spool:
        assert (spool.records, spool.gone()) == (100, [])
        spool.tidy(TIMESTAMP_MS)
        assert spool.gone() == [lost(range(60), terms.SPOOL_FULL)]
        spool.save()
    with opened(tmp_path) as spool:
        assert spool.gone() == []
        assert drain(spool) == list(range(60, 100))


def test_what_is_gone_is_kept_until_somebody_asks_for_it(tmp_path):
    """The checkpoint has it: the books that it has may be older."""
    with opened(tmp_path, retention=Retention(size=1)) as spool:
        append(spool, flows(0, 20))
        spool.append(flows(20, 7, 1), EPOCH, in_doubt=True)
        spool.tidy(TIMESTAMP_MS)
        spool.save()
        assert files(tmp_path) == []
    for _ in range(2):
        with opened(tmp_path) as spool:
            gone = sorted(spool.gone(), key=lambda each: each.in_doubt)
            assert gone == [
                lost(range(20), terms.SPOOL_FULL),
                lost(range(20, 27), terms.SPOOL_FULL, in_doubt=True),
            ]
            assert spool.gone() == []
    with opened(tmp_path) as spool:
        assert records_gone(spool.gone()) == 27
        spool.save()
    with opened(tmp_path) as spool:
        assert spool.gone() == []


def test_only_what_was_not_acknowledged_is_gone(tmp_path):
    with opened(tmp_path, segment_bytes=12_000) as spool:
        for n in range(6):
            append(spool, flows(n * 20, 20))
        _, second, *_ = unread(spool)
        spool.acknowledge(second)
        spool.save()
    with opened(tmp_path, retention=Retention(size=1)) as spool:
        spool.tidy(TIMESTAMP_MS)
        assert spool.gone() == [lost([*range(20), *range(40, 120)], terms.SPOOL_FULL)]
        assert (spool.records, spool.amounts, spool.octets) == (0, {}, 0)
        spool.save()
        assert files(tmp_path) == []


def test_what_is_in_flight_gets_its_own_outcome(tmp_path):
    with opened(tmp_path, retention=Retention(size=1), segment_bytes=12_000) as spool:
        for n in range(4):
            append(spool, flows(n * 20, 20))
        first, second, third = (spool.read() for _ in range(3))
        spool.acknowledge(first)
        spool.tidy(TIMESTAMP_MS)
        assert spool.gone() == [lost(range(60, 80), terms.SPOOL_FULL)]
        assert (spool.records, spool.octets, spool.read()) == (40, 0, None)
        spool.acknowledge(third)
        spool.acknowledge(second)
        assert (spool.records, spool.amounts, spool.gone()) == (0, {}, [])
        spool.save()
        assert files(tmp_path) == []


def test_records_that_were_in_doubt_before_stay_so(tmp_path):
    with opened(tmp_path, retention=Retention(size=1)) as spool:
        spool.append(flows(0, 7), EPOCH, in_doubt=True)
        append(spool, flows(7, 7))
        spool.tidy(TIMESTAMP_MS)
        gone = sorted(spool.gone(), key=lambda each: each.in_doubt)
        assert gone == [
            lost(range(7, 14), terms.SPOOL_FULL),
            lost(range(7), terms.SPOOL_FULL, in_doubt=True),
        ]


def test_what_was_sent_and_not_answered_is_in_doubt_for_the_next_run_too(tmp_path):
    with opened(tmp_path) as spool:
        for n in range(3):
            append(spool, flows(n * 20, 20))
        first, second = (spool.read() for _ in range(2))
        spool.doubt(first)
        spool.doubt(second)
        spool.acknowledge(second)
        spool.save()
    with opened(tmp_path) as spool:
        assert [each.in_doubt for each in unread(spool)] == [True, False]
        spool.save()
    with opened(tmp_path, retention=Retention(size=1)) as spool:
        spool.tidy(TIMESTAMP_MS)
        gone = sorted(spool.gone(), key=lambda each: each.in_doubt)
        assert gone == [
            lost(range(40, 60), terms.SPOOL_FULL),
            lost(range(20), terms.SPOOL_FULL, in_doubt=True),
        ]


def test_segments_older_than_the_age_expire(tmp_path):
    now = TIMESTAMP_MS + 10 * HOUR
    with opened(tmp_path, retention=Retention(age_ms=4 * HOUR), **SEGMENT) as spool:
        for n, hours in enumerate([1, 5, 7]):
            append(spool, flows(n * 20, 20, time_ms=TIMESTAMP_MS + hours * HOUR))
        # Its only segment is the active one.
        append(spool, flows(60, 20, 1, time_ms=TIMESTAMP_MS + HOUR))
        spool.tidy(now)
        assert spool.gone() == [lost([*range(40), *range(60, 80)], terms.SPOOL_EXPIRED)]
        assert spool.oldest_ms == TIMESTAMP_MS + 7 * HOUR
        append(spool, flows(80, 20, 1, time_ms=now))
        assert drain(spool) == [*range(40, 60), *range(80, 100)]


def test_records_of_a_segment_that_is_written_do_not_keep_it_young(tmp_path):
    with opened(tmp_path, retention=Retention(age_ms=4 * HOUR)) as spool:
        for n in range(8):
            now = TIMESTAMP_MS + n * HOUR
            append(spool, flows(n * 20, 20, time_ms=now))
            spool.tidy(now)
        # Those of the hours 0 to 2, in the hour 7.
        assert spool.gone() == [lost(range(60), terms.SPOOL_EXPIRED)]
        assert drain(spool) == list(range(60, 160))


def test_a_spool_smaller_than_a_segment_keeps_nothing(tmp_path):
    with opened(tmp_path, retention=Retention(size=100)) as spool:
        append(spool, flows(0, 20))
        spool.tidy(TIMESTAMP_MS)
        spool.save()
        assert spool.gone() == [lost(range(20), terms.SPOOL_FULL)]
        append(spool, flows(20, 20))
        spool.tidy(TIMESTAMP_MS)
        spool.save()
        assert spool.gone() == [lost(range(20, 40), terms.SPOOL_FULL)]
        assert files(tmp_path) == []


def test_published_segments_are_no_reason_to_give_others_up(tmp_path):
    """They are deleted by the next checkpoint."""
    with opened(tmp_path, retention=Retention(size=30_000), **SEGMENT) as spool:
        for n in range(5):
            append(spool, flows(n * 20, 20))
        for _ in range(3):
            spool.acknowledge(spool.read())
        for n in range(5, 8):
            append(spool, flows(n * 20, 20))
        assert spool.exceeded
        spool.tidy(TIMESTAMP_MS)
        assert spool.gone() == []
        spool.save()
        assert not spool.exceeded
        assert drain(spool) == list(range(60, 160))


def test_a_segment_that_cannot_be_read_is_given_up_with_what_is_known(tmp_path):
    with opened(tmp_path, retention=Retention(size=1)) as spool:
        append(spool, flows(0, 20))
        log_of(tmp_path).with_suffix(".tally").unlink()
        spool.tidy(TIMESTAMP_MS)
        (gone,) = spool.gone()
        assert (gone.records, gone.amounts, gone.agent_epoch) == (20, {}, None)
        assert spool.octets == 0
        assert spool.records == 0


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in memory: 10,000 segments are synchronised with the disk one by one."""
    with tempfile.TemporaryDirectory(prefix="flowstream-spool-", dir="/dev/shm") as directory:
        yield Path(directory)


def test_ten_thousand_segments_are_opened_within_bounds(in_memory):
    """CPU time and memory are counted: no stopwatch."""
    with opened(in_memory / "full", segment_bytes=1) as spool:
        for n in range(10_000):
            append(spool, flows(n * 2, 2, n % 3, size=12))
    assert len(files(in_memory / "full", ".log")) == 10_000
    script = f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        from support.spools import drain, opened
        def used():
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return usage.ru_utime + usage.ru_stime
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        with opened(Path({str(in_memory)!r}) / "empty") as spool:
            pass
        before, memory = used(), peak()
        spool = opened(Path({str(in_memory)!r}) / "full")
        opening = used()
        assert spool.records == 20_000
        assert drain(spool) == list(range(20_000))
        print(opening - before, used() - opening, peak() - memory)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    opening, draining, kilobytes = map(float, done.stdout.split())
    assert opening < 10
    assert draining < 30
    assert kilobytes < 100 << 10
    assert files(in_memory / "full") == []


def test_descriptors_are_those_of_directories_and_active_segments(tmp_path):
    with opened(tmp_path, **SEGMENT) as spool:
        for n in range(30):
            append(spool, flows(n * 20, 20, n % 3))
        own = [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path) in target(path)]
        # Root, lock, three directories, three segments with their sidecars.
        assert len(own) == 2 + 3 + 6
        assert numbers(unread(spool)) == list(range(600))
    own = [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path) in target(path)]
    assert own == []


def target(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""

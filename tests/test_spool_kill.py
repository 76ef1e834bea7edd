"""SIGKILL at any moment: what was said to be spooled is there, and is read once."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from support.spools import log_of, numbers, opened, records_gone, unread

from flowstream.segments.source import SegmentSource

HERE = Path(__file__).parent
KILLS = 25

# Appends, reads, acknowledges and saves without a pause. Its log has a line for everything that
# is done: "+FIRST COUNT", "-FIRST COUNT" for what will be acknowledged, "=" for a checkpoint.
WRITER = f"""
    import os, random, sys
    from pathlib import Path
    sys.path.insert(0, {str(HERE)!r})
    from support.spools import EPOCH, flows, numbers, opened
    spool = opened(Path(sys.argv[1]), segment_bytes=20_000, compression=sys.argv[4])
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    first = int(sys.argv[3])
    rng = random.Random(first)
    os.write(log, b"open\\n")
    while True:
        count = rng.randrange(1, 100)
        batch = flows(first, count, rng.randrange(3))
        assert spool.append(batch, EPOCH) == (count, None)
        os.write(log, b"+%d %d\\n" % (first, count))
        first += count
        if rng.random() < 0.4 and (batch := spool.read()) is not None:
            got = numbers([batch])
            os.write(log, b"-%d %d\\n" % (got[0], len(got)))
            spool.acknowledge(batch)
        if rng.random() < 0.1:
            os.write(log, b"<\\n")
            spool.save()
            os.write(log, b"=\\n")
"""


def kill_at(size: int, directory: Path, log: Path, first: int, compression: str) -> list[str]:
    """Run the writer until its log has more than ``size`` octets; return the log."""
    log.unlink(missing_ok=True)
    args = [str(directory), str(log), str(first), compression]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), *args]) as process:
        while not log.exists() or log.stat().st_size <= size:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -9
    return log.read_text().splitlines()


class Expected:
    """What must be in the spool, by what the writers said."""

    def __init__(self) -> None:
        self.waiting: set[int] = set()
        self.next = 0
        # Acknowledged, and no checkpoint yet.
        self.open: set[int] = set()

    def note(self, lines: list[str]) -> None:
        before: set[int] = set()
        for line in lines:
            kind, *rest = line[0], *map(int, line[1:].split() if line[1:].strip() else [])
            if kind in "+-":
                records = set(range(rest[0], rest[0] + rest[1]))
                if kind == "+":
                    self.waiting |= records
                    self.next = max(self.next, rest[0] + rest[1])
                else:
                    self.open |= records
            elif kind == "<":
                before = set(self.open)
            elif kind == "=":
                self.waiting -= before
                self.open -= before

    def check(self, got: list[int]) -> None:
        """Compare with everything that a new run reads."""
        assert len(set(got)) == len(got), "read twice"
        found = set(got)
        assert found >= self.waiting - self.open, "lost"
        # The last batch may have been written, and not said so any more.
        assert found - self.waiting <= set(range(self.next, self.next + 100)), "repeated"
        assert len(found - self.waiting) < 100
        self.waiting, self.open = found, set()
        self.next = max([self.next, *(n + 1 for n in found)])


def test_a_killed_process_loses_nothing_that_it_spooled():
    rng = random.Random(2026)
    expected = Expected()
    with tempfile.TemporaryDirectory(prefix="flowstream-spool-", dir="/dev/shm") as place:
        directory, log = Path(place) / "spool", Path(place) / "log"
        for kills in range(1, KILLS + 1):
            compression = rng.choice(["none", "zstd"])
            size = rng.randrange(2_000)
            lines = kill_at(size, directory, log, expected.next, compression)
            assert lines[0] == "open"
            expected.note([line for line in lines[1:] if line])
            spool = opened(directory)
            # At most the batch that was being written is gone.
            gone = records_gone(spool.gone())
            assert gone < 100
            expected.next += gone
            found = unread(spool)
            expected.check(numbers(found))
            if kills % 10 == 0:
                for batch in found:
                    spool.acknowledge(batch)
                assert spool.records == 0
                expected.waiting = set()
            spool.save()
            assert_readable(directory)
            spool.close()
        assert expected.next > 5_000


def assert_readable(directory: Path) -> None:
    """Every tool that reads recordings reads it to the end."""
    source = SegmentSource(directory)
    for place in source.partitions():
        if any(log_of(directory).parent.parent.glob(f"{place[0]}-{place[1]}/*.log")):
            assert sum(map(len, source.read_partition(*place))) > 0
    assert not any("cut short" in warning for warning in source.warnings)

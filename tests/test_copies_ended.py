"""record and replay that end early: by a signal, or because their reader went away."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.copies import Content, batch_of, content
from support.outcomes import Account
from support.pipes import closed_after_a_line
from support.published import Published, publish
from support.traffic import wait_until

from flowstream.segments.sink import SegmentSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

BEGIN_MS = 1_600_000_000_000
TOPIC = "t"
BATCHES, OF_BATCH, PARTITIONS = 19, 101, 2
SIGNALLED = 1_009
"""The message at which the signal arrives."""

RECORD = f"""
import itertools, os, signal, sys
from flowstream.cli import record
from flowstream.cli.main import main

def changing(args):
    numbers = itertools.count(1)
    def change(message):
        if next(numbers) == {SIGNALLED}:
            os.kill(os.getpid(), signal.Signals[sys.argv[1]])
        return message
    return change

record._change = changing
sys.exit(main(sys.argv[2:]))
"""
"""``flowstream record``, which gets a signal while it copies a certain message."""


def recorded(directory: Path, times: list[int]) -> list[Content]:
    """Write messages to both partitions, a batch for each time; return those of one."""
    batches = [
        [Content(BEGIN_MS + ms, b"", b"%d %d" % (number, n)) for n in range(OF_BATCH)]
        for number, ms in enumerate(times)
    ]

    async def write() -> None:
        sink = SegmentSink(directory, Account(), partitions=PARTITIONS)
        await sink.start([TOPIC])
        for partition in range(PARTITIONS):
            for each in batches:
                await sink.send(batch_of(TOPIC, partition, each))
        await sink.flush(60)
        await sink.close(5)

    asyncio.run(write())
    return [each for batch in batches for each in batch]


def contents(directory: Path) -> list[list[Content]]:
    """What each partition has, in order."""

    async def read() -> list[list[Content]]:
        found: list[list[Content]] = [[] for _ in range(PARTITIONS)]
        async for batch in open_source(str(directory), [TOPIC]).batches():
            for message in batch:
                found[message.partition].append(content(message))
        return found

    return asyncio.run(read())


def record(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RECORD, name, "record", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_a_recording_that_is_complete_up_to_there(tmp_path, name):
    source = recorded(tmp_path / "source", [0] * BATCHES)
    done = record(name, tmp_path / "source", "--to", tmp_path / "copy")
    said = f"flowstream: error: stopped by {name}: {tmp_path}/copy has the messages up to there\n"
    expected = (130, "") if name == "SIGINT" else (128 + signal.Signals[name], said)
    assert (done.returncode, done.stderr, done.stdout) == (*expected, "")
    first, second = contents(tmp_path / "copy")
    assert SIGNALLED <= len(first) + len(second) < PARTITIONS * len(source)
    assert first == source[: len(first)]
    assert second == source[: len(second)]


def test_a_signal_leaves_no_file(tmp_path):
    recorded(tmp_path / "source", [0] * BATCHES)
    done = record("SIGTERM", tmp_path / "source", "--to", tmp_path / "copy.fsrec")
    said = f"flowstream: error: stopped by SIGTERM: {tmp_path}/copy.fsrec was not made\n"
    assert (done.returncode, done.stderr, done.stdout) == (143, said, "")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_signal_ends_a_replay_with_everything_taken_until_then(tmp_path):
    hour_ms = 3_600_000
    source = recorded(tmp_path / "source", [0, 0, hour_ms])
    command = [sys.executable, "-m", "flowstream", "replay", str(tmp_path / "source")]
    replay = subprocess.Popen(
        [*command, "--speed", "1", "--to", f"file:{tmp_path}/copy"], stderr=subprocess.PIPE
    )
    expected = PARTITIONS * 2 * OF_BATCH
    there = tmp_path / "copy" / f"{TOPIC}-{PARTITIONS - 1}"
    assert wait_until(
        lambda: there.exists() and sum(map(len, contents(tmp_path / "copy"))) == expected
    )
    replay.send_signal(signal.SIGTERM)
    _, said = replay.communicate(timeout=60)
    assert said == b"flowstream: error: stopped by SIGTERM: the rest was not sent\n"
    assert replay.returncode == 143
    assert contents(tmp_path / "copy") == [source[: 2 * OF_BATCH]] * PARTITIONS


def test_a_closed_pipe_ends_a_replay_quietly(tmp_path):
    asyncio.run(publish(f"file:{tmp_path}/run", "json", Published()))
    options = ("--to", "stdout:", "--loop", "1000000")
    line = closed_after_a_line("replay", str(tmp_path / "run"), *options)
    assert line.startswith(b'{"record_type":')

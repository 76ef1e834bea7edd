"""Standard output as a sink: lines, a slow reader, and a reader that goes away."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from structlog.testing import capture_logs
from support.outcomes import Account, eventually, make_batch

from flowstream.errors import SinkError
from flowstream.sink import open_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@contextmanager
def pipe_as_stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the write end of a pipe standard output; yield the read end."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        yield reader


async def test_one_line_per_record_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()
    first, second = make_batch("t", 0, 0, 7, size=12), make_batch("t", 0, 7, 13, size=12)
    with pipe_as_stdout(monkeypatch) as reader:
        sink = open_sink("stdout:", account, partitions=5, record_format="json")
        await sink.start(["t"])
        assert sink.partitions("t") == 1
        await sink.send(first)
        await sink.send(second)
        await sink.flush(60)
        await sink.close(60)
        await sink.close(60)
        await sink.send(make_batch("t", 0, 20, 3))
    assert account.acknowledged_values == first.values + second.values
    assert account.causes == {"shutdown": 3}
    with os.fdopen(reader, "rb") as lines:
        assert lines.read().splitlines() == first.values + second.values


async def test_closed_pipe_is_a_fault_and_the_rest_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account()
    with pipe_as_stdout(monkeypatch) as reader:
        sink = open_sink("stdout:", account, partitions=1, record_format="json")
        await sink.start(["t"])
        assert sink.fault is None
        # More than a pipe holds: the reader goes away in the middle of the write.
        await sink.send(make_batch("t", 0, 0, 997))
        assert await anyio.to_thread.run_sync(os.read, reader, 2 * 204) != b""
        os.close(reader)
        await sink.send(make_batch("t", 0, 997, 11))
        await sink.flush(60)
        assert sink.fault == "stdout: the reader has closed the pipe"
        await sink.close(60)
    assert account.settled == 1008
    assert set(account.causes) == {"pipe_closed"}
    assert 2 <= len(account.acknowledged_values) < 997


async def test_slow_reader_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account()
    with pipe_as_stdout(monkeypatch) as reader:
        sink = open_sink("stdout:", account, partitions=1, record_format="json")
        await sink.start(["t"])
        await sink.send(make_batch("t", 0, 0, 997))
        await sink.send(make_batch("t", 0, 997, 11))
        await sink.flush(0.2)
        assert account.doubts == {"shutdown": 997}
        assert account.causes == {"shutdown": 11}
        await sink.send(make_batch("t", 0, 1008, 13))
        await sink.close(0.2)
        assert account.causes == {"shutdown": 11 + 13}
        # The thread is still in its write: let it end before its descriptor does.
        os.close(reader)
        await eventually(lambda: sink.fault is not None)
        assert account.settled == 997 + 11 + 13


async def test_batch_in_doubt_gets_no_second_outcome_and_later_ones_are_never_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account()
    doubtful, failed = make_batch("t", 0, 0, 997), make_batch("t", 0, 997, 11)
    later = make_batch("t", 0, 1008, 13)
    with pipe_as_stdout(monkeypatch) as reader, os.fdopen(reader, "rb") as lines:
        sink = open_sink("stdout:", account, partitions=1, record_format="json")
        await sink.start(["t"])
        await sink.send(doubtful)
        await sink.send(failed)
        await sink.flush(0.2)
        assert account.doubtful_values == doubtful.values
        assert account.failed_values == failed.values
        # The reader continues, and the write succeeds.
        written = [await anyio.to_thread.run_sync(lines.readline) for _ in range(997)]
        await sink.send(later)
        await sink.close(60)
        written += [await anyio.to_thread.run_sync(lines.readline) for _ in range(13)]
    assert [line.rstrip() for line in written] == [
        value.rstrip() for value in [*doubtful.values, *later.values]
    ]
    assert account.acknowledged_values == later.values
    assert account.settled == 997 + 11 + 13


async def test_bug_fails_the_batch_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account()
    broken = [make_batch("t", 0, 0, 7), make_batch("t", 0, 7, 11)]
    for batch in broken:
        batch.values[3] = "no octets"  # type: ignore[call-overload]
    with pipe_as_stdout(monkeypatch) as reader, capture_logs() as logs:
        sink = open_sink("stdout:", account, partitions=1, record_format="json")
        await sink.start(["t"])
        for batch in broken:
            await sink.send(batch)
        await sink.flush(60)
        assert account.causes == {"internal_error": 18}
        assert sink.fault == (
            "stdout: TypeError: sequence item 3: expected a bytes-like object, str found"
        )
        # It continues: later batches get their outcomes.
        await sink.send(make_batch("t", 0, 18, 13))
        await sink.close(60)
        os.close(reader)
    assert len(account.acknowledged_values) == 13
    assert [each["event"] for each in logs] == ["internal_error"]
    assert logs[0]["exc_info"]


async def test_closed_standard_output_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    sink = open_sink("stdout:", Account(), partitions=1, record_format="json")
    with pytest.raises(SinkError, match="standard output is closed"):
        await sink.start(["t"])

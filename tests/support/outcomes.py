"""For tests of sinks: batches to send, and an account of their outcomes."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from flowstream.messages import MessageBatch

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE_BYTES = 203
TIMESTAMP_MS = 1_700_000_000_123


class Account:
    """Outcomes, counted; a record that gets a second outcome fails the test at once."""

    def __init__(self) -> None:
        self.acknowledged_values: list[bytes | None] = []
        self.failed_values: list[bytes | None] = []
        self.causes: Counter[str] = Counter()
        self.doubtful_values: list[bytes | None] = []
        self.doubts: Counter[str] = Counter()
        self._seen: set[tuple[int, int]] = set()
        # Batches are told apart by identity: they must stay alive.
        self._batches: list[MessageBatch] = []

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        self._settle(batch, part)
        self.acknowledged_values += batch.values[part]

    def failed(self, batch: MessageBatch, part: slice, cause: str) -> None:
        self._settle(batch, part)
        self.failed_values += batch.values[part]
        self.causes[cause] += part.stop - part.start

    def in_doubt(self, batch: MessageBatch, part: slice, cause: str) -> None:
        self._settle(batch, part)
        self.doubtful_values += batch.values[part]
        self.doubts[cause] += part.stop - part.start

    @property
    def settled(self) -> int:
        return len(self._seen)

    def _settle(self, batch: MessageBatch, part: slice) -> None:
        records = {(id(batch), n) for n in range(part.start, part.stop)}
        assert records, "an outcome of no records"
        assert part.stop <= len(batch)
        assert not records & self._seen, "a second outcome"
        self._seen |= records
        self._batches.append(batch)


def make_batch(
    topic: str, partition: int, first: int, count: int, size: int = VALUE_BYTES
) -> MessageBatch:
    """Values of ``size`` bytes that begin with their number and continue at random.

    So compression leaves their sizes nearly as they are. They contain no line feed:
    standard output takes values by the line.
    """
    length = max(size - 12, 0)
    noise = os.urandom(length * count).replace(b"\n", b" ")
    values = [b"%012d" % (first + n) + noise[n * length : (n + 1) * length] for n in range(count)]
    keys = [n.to_bytes(8, "big") for n in range(first, first + count)]
    return MessageBatch(topic, partition, [TIMESTAMP_MS] * count, keys, values)


def new_topic() -> str:
    """A topic name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def number(value: bytes) -> int:
    """The number that ``make_batch`` gave this value."""
    return int(value[:12])


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll until ``condition`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        await anyio.sleep(0.01)

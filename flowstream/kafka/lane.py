"""One partition's records in a Kafka sink: those that wait, and the flight.

The flight is the Kafka batch that the producer holds. It ends with an acknowledgement
or goes back to the head of the queue, so the order within a partition outlives any
producer. One flight per partition is enough: while some partitions are in flight, the
others are packed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from flowstream.kafka import times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.messages import MessageBatch

RECORD_OVERHEAD: Final = 24
"""Octets that Kafka's record format adds to key and value, rounded up."""

UNLIMITED: Final = 1 << 20
"""Records in a flight: more than any batch has room for."""

# A flight grows by an eighth.
_GROWTH = 8


class BatchBuilder(Protocol):
    """The part of aiokafka's batch builder that packing needs."""

    def append(
        self,
        *,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> object | None:
        """Add a record; None when it does not fit (the first one always does)."""


@dataclass(slots=True)
class Chunk:
    """Records ``start`` to ``stop`` of a batch; ``deadline`` in the loop's time.

    ``in_doubt``: they were sent at least once without an answer.
    """

    batch: MessageBatch
    start: int
    stop: int
    size: int
    deadline: float
    in_doubt: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def times(self) -> Sequence[int]:
        """Message times of the records, Unix ms."""
        return self.batch.timestamps_ms[self.start : self.stop]

    def cut(self, n: int) -> Chunk:
        """Split off the first ``n`` records, with their share of the size."""
        share = self.size * n // len(self)
        head = replace(self, stop=self.start + n, size=share)
        self.start += n
        self.size -= share
        return head


@dataclass(slots=True, eq=False)
class Flight:
    """One Kafka batch that the producer holds."""

    chunks: list[Chunk]
    launched: float

    def __len__(self) -> int:
        return sum(map(len, self.chunks))

    def doubt(self) -> None:
        """Note that an unanswered request may have published it."""
        for chunk in self.chunks:
            chunk.in_doubt = True


@dataclass(slots=True, eq=False)
class Lane:
    """One partition: its waiting records and its flight."""

    topic: str
    partition: int
    waiting: deque[Chunk] = field(default_factory=deque)
    flight: Flight | None = None
    # Records per Kafka batch, and runs of records of the same time.
    max_records: int = UNLIMITED
    max_runs: int = UNLIMITED

    def __len__(self) -> int:
        return sum(map(len, self.waiting)) + len(self.flight or ())

    def launch(self, builder: BatchBuilder, now: float) -> Flight:
        """Pack waiting records into ``builder`` until it is full; that is the lane's flight."""
        chunks: list[Chunk] = []
        room, runs = self.max_records, self.max_runs
        while self.waiting and room and runs:
            chunk = self.waiting[0]
            limit = room
            if runs < UNLIMITED:
                limit = min(room, times.within(chunk.times, runs))
                runs -= min(times.runs(chunk.times), runs)
            packed = _pack(builder, chunk, limit)
            if packed:
                chunks.append(chunk.cut(packed))
            if len(chunk):
                break
            self.waiting.popleft()
            room -= packed
        self.flight = Flight(chunks, now)
        return self.flight

    def land(self) -> list[Chunk]:
        """End the flight and return its chunks."""
        if self.flight is None:
            return []
        chunks, self.flight = self.flight.chunks, None
        return chunks

    def recall(self, *, in_doubt: bool) -> None:
        """End the flight; its records wait again, first in line.

        ``in_doubt``: the broker may have written them; it was sent and not refused.
        """
        chunks = self.land()
        for chunk in chunks:
            chunk.in_doubt |= in_doubt
        self.waiting.extendleft(reversed(chunks))

    def shrink(self, divisor: int) -> None:
        """Limit the next flight to fewer records than the present one."""
        self.max_records = max(1, len(self.flight or ()) // divisor)

    def grow(self) -> None:
        """Allow the next flight a few records more."""
        self.max_records = min(self.max_records + self.max_records // _GROWTH + 1, UNLIMITED)


def _pack(builder: BatchBuilder, chunk: Chunk, limit: int) -> int:
    """Append at most ``limit`` records of ``chunk``; return how many went in."""
    append = builder.append
    batch, start = chunk.batch, chunk.start
    stop = min(chunk.stop, start + limit)
    for n, (timestamp, key, value, headers) in enumerate(batch.fields(slice(start, stop))):
        if append(timestamp=timestamp, key=key, value=value, headers=headers) is None:
            return n
    return stop - start

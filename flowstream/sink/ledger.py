"""What a Kafka sink has accepted and not settled, in order, partition by partition.

Every record is in one of two places: waiting, or in the one flight of its
partition, which is the Kafka batch that the producer holds. A flight ends by
acknowledgement or by going back to the head of the waiting ones, so the order
within a partition outlives any producer. One flight per partition is enough:
while some partitions are in the air the others are being packed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowstream.batch import CopiedBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.batch import EncodedBatch
    from flowstream.sink import Outcomes
    from flowstream.sink.space import Space

# What Kafka's record format adds to key and value, rounded up.
RECORD_OVERHEAD = 24


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
    """Records ``start`` to ``stop`` of a batch; ``deadline`` in the loop's time."""

    batch: EncodedBatch
    start: int
    stop: int
    size: int
    deadline: float

    def __len__(self) -> int:
        return self.stop - self.start

    def cut(self, n: int) -> Chunk:
        """Take the first ``n`` records off, with their share of the size."""
        share = self.size * n // len(self)
        head = Chunk(self.batch, self.start, self.start + n, share, self.deadline)
        self.start += n
        self.size -= share
        return head


@dataclass(slots=True, eq=False)
class Flight:
    """One Kafka batch in the producer's hands."""

    chunks: list[Chunk]
    launched: float

    def __len__(self) -> int:
        return sum(map(len, self.chunks))


@dataclass(slots=True, eq=False)
class Lane:
    """One partition: what waits for it and what is in the air."""

    topic: str
    partition: int
    waiting: deque[Chunk] = field(default_factory=deque)
    flight: Flight | None = None
    # Records per Kafka batch; lowered when the broker finds a batch too large.
    max_records: int | None = None

    def launch(self, builder: BatchBuilder, now: float) -> Flight:
        """Pack waiting records into ``builder`` until it is full: the lane's flight."""
        chunks: list[Chunk] = []
        room = self.max_records
        while self.waiting and room != 0:
            chunk = self.waiting[0]
            packed = _pack(builder, chunk, len(chunk) if room is None else room)
            if packed:
                chunks.append(chunk.cut(packed))
            if len(chunk):
                break
            self.waiting.popleft()
            if room is not None:
                room -= packed
        self.flight = Flight(chunks, now)
        return self.flight

    def land(self) -> list[Chunk]:
        """End the flight and hand over what was in it."""
        if self.flight is None:
            return []
        chunks, self.flight = self.flight.chunks, None
        return chunks

    def recall(self) -> None:
        """End the flight; what was in it waits again, first in line."""
        self.waiting.extendleft(reversed(self.land()))


def _pack(builder: BatchBuilder, chunk: Chunk, limit: int) -> int:
    """Append at most ``limit`` records of ``chunk``; return how many went in."""
    append = builder.append
    batch, start = chunk.batch, chunk.start
    stop = min(chunk.stop, start + limit)
    if isinstance(batch, CopiedBatch):
        for n, row in enumerate(batch.rows[start:stop]):
            added = append(
                timestamp=row.timestamp_ms, key=row.key, value=row.value, headers=list(row.headers)
            )
            if added is None:
                return n
        return stop - start
    timestamp = batch.timestamp_ms
    keys, values = batch.keys[start:stop], batch.values[start:stop]
    for n, (key, value) in enumerate(zip(keys, values, strict=True)):
        if append(timestamp=timestamp, key=key, value=value) is None:
            return n
    return stop - start


class Ledger:
    """All lanes; settles records with the outcomes and gives their space back."""

    def __init__(self, outcomes: Outcomes, space: Space) -> None:
        self._outcomes = outcomes
        self._space = space
        self._lanes: dict[tuple[str, int], Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        # A copy: batches for new partitions are accepted while somebody goes through them.
        return iter(tuple(self._lanes.values()))

    def accept(self, batch: EncodedBatch, size: int, deadline: float) -> None:
        """Enter a whole batch, for which ``size`` bytes of space were taken."""
        address = (batch.topic, batch.partition)
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = Lane(*address)
        lane.waiting.append(Chunk(batch, 0, len(batch), size, deadline))

    def acknowledge(self, lane: Lane) -> None:
        """Settle the lane's flight as published."""
        for chunk in lane.land():
            self._space.give(chunk.size)
            self._outcomes.acknowledged(chunk.batch, slice(chunk.start, chunk.stop))

    def fail(self, lane: Lane, cause: str) -> None:
        """Settle the lane's flight as given up."""
        for chunk in lane.land():
            self._give_up(chunk, cause)

    def refuse_size(self, lane: Lane) -> None:
        """Halve what the lane sends at once: the broker finds its flight too large.

        The lower limit stays, because it is the topic's and not the records'. A
        single record that is too large is given up, and the limit with it.
        """
        records = len(lane.flight or ())
        if records > 1:
            lane.max_records = records // 2
            lane.recall()
        else:
            lane.max_records = None
            self.fail(lane, "message_too_large")

    def expire(self, now: float) -> int:
        """Give up what waits past its deadline; return the number of records."""
        expired = 0
        for lane in self:
            while lane.waiting and lane.waiting[0].deadline <= now:
                chunk = lane.waiting.popleft()
                expired += len(chunk)
                self._give_up(chunk, "delivery_timeout")
        return expired

    def fail_all(self, cause: str) -> int:
        """Give up everything, flights included; return the number of records."""
        failed = 0
        for lane in self:
            lane.recall()
            while lane.waiting:
                chunk = lane.waiting.popleft()
                failed += len(chunk)
                self._give_up(chunk, cause)
        return failed

    def recall(self) -> None:
        """End every flight without an outcome."""
        for lane in self:
            lane.recall()

    def records(self) -> int:
        """Count the records that wait."""
        return sum(len(chunk) for lane in self for chunk in lane.waiting)

    def in_the_air(self) -> Iterator[Flight]:
        """Every flight."""
        return (lane.flight for lane in self if lane.flight is not None)

    def _give_up(self, chunk: Chunk, cause: str) -> None:
        self._space.give(chunk.size)
        self._outcomes.failed(chunk.batch, slice(chunk.start, chunk.stop), cause)

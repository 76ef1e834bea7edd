"""Records that a Kafka sink accepted and has not settled, in order, by partition.

Each record is in one of two places: waiting, or in the one flight of its
partition, which is the Kafka batch that the producer holds. A flight ends with
an acknowledgement or goes back to the head of the queue, so the order within a
partition outlives any producer. One flight per partition is enough: while some
partitions are in flight, the others are packed.

A flight that was sent and ends without an answer leaves its records in doubt: the
broker may have written them. They are sent again, and a record that is given up
after that is in doubt, not failed, even when the last attempt was refused.

The number of records in a flight depends on the outcome of earlier ones: fewer
after a refusal for its size or after no answer, slightly more after each prompt
acknowledgement. So a topic with small limits and a slow line both get batches
that they can take.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from flowstream.accounting import terms
from flowstream.kafka import times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.delivery.space import Space
    from flowstream.messages import MessageBatch

# Octets that Kafka's record format adds to key and value, rounded up.
RECORD_OVERHEAD = 24

# Records in a flight: more than any batch has room for.
_UNLIMITED = 1 << 20
# Divisors of a flight's records: after a refusal, which costs one request, and after
# no answer, which costs many seconds. A flight grows by an eighth.
_REFUSED = 2
_UNANSWERED = 16
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


@dataclass(slots=True, eq=False)
class Lane:
    """One partition: its waiting records and its flight."""

    topic: str
    partition: int
    waiting: deque[Chunk] = field(default_factory=deque)
    flight: Flight | None = None
    # Records per Kafka batch, and runs of records of the same time.
    max_records: int = _UNLIMITED
    max_runs: int = _UNLIMITED

    def __len__(self) -> int:
        return sum(map(len, self.waiting)) + len(self.flight or ())

    def launch(self, builder: BatchBuilder, now: float) -> Flight:
        """Pack waiting records into ``builder`` until it is full; that is the lane's flight."""
        chunks: list[Chunk] = []
        room, runs = self.max_records, self.max_runs
        while self.waiting and room and runs:
            chunk = self.waiting[0]
            limit = room
            if runs < _UNLIMITED:
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
        self.max_records = min(self.max_records + self.max_records // _GROWTH + 1, _UNLIMITED)


def _pack(builder: BatchBuilder, chunk: Chunk, limit: int) -> int:
    """Append at most ``limit`` records of ``chunk``; return how many went in."""
    append = builder.append
    batch, start = chunk.batch, chunk.start
    stop = min(chunk.stop, start + limit)
    for n, (timestamp, key, value, headers) in enumerate(batch.fields(slice(start, stop))):
        if append(timestamp=timestamp, key=key, value=value, headers=headers) is None:
            return n
    return stop - start


class Lanes:
    """All lanes; reports outcomes and returns the space of settled records.

    An acknowledgement within ``prompt`` seconds makes a lane's flights grow.
    """

    def __init__(self, outcomes: Outcomes[MessageBatch], space: Space, *, prompt: float) -> None:
        self._outcomes = outcomes
        self._space = space
        self._prompt = prompt
        self._lanes: dict[tuple[str, int], Lane] = {}
        # Records given up since the last log line, by cause; the sink clears them.
        self.failed: Counter[str] = Counter()
        self.in_doubt: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Lane]:
        # A copy: batches for new partitions are accepted during the iteration.
        return iter(tuple(self._lanes.values()))

    def __len__(self) -> int:
        """Count the records that have no outcome."""
        return sum(map(len, self._lanes.values()))

    def accept(self, batch: MessageBatch, partition: int, size: int, deadline: float) -> None:
        """Add a whole batch, for which ``size`` bytes of space were taken."""
        lane = self._lane(batch.topic, partition)
        lane.waiting.append(Chunk(batch, 0, len(batch), size, deadline))

    def fit(self, partitions: Mapping[str, int]) -> int:
        """Move records of partitions that are gone to partitions that exist.

        They go to ``partition % number``, in order of acceptance. Call it without
        flights. Returns the number of records moved.
        """
        moved = 0
        for lane in self:
            number = partitions[lane.topic]
            if lane.partition < number:
                continue
            del self._lanes[lane.topic, lane.partition]
            home = self._lane(lane.topic, lane.partition % number)
            # Stable, and each lane's deadlines rise: neither loses its own order.
            home.waiting = deque(
                sorted([*home.waiting, *lane.waiting], key=attrgetter("deadline"))
            )
            moved += len(lane)
        return moved

    def postpone(self, lane: Lane) -> None:
        """Move the lane behind all others, so that its faults delay none of them."""
        self._lanes[lane.topic, lane.partition] = self._lanes.pop((lane.topic, lane.partition))

    def acknowledge(self, lane: Lane, now: float) -> None:
        """Settle the lane's flight as published."""
        if lane.flight is not None and now - lane.flight.launched <= self._prompt:
            lane.grow()
        lane.max_runs = min(2 * lane.max_runs, _UNLIMITED)
        for chunk in lane.land():
            self._space.give(chunk.size)
            self._outcomes.acknowledged(chunk.batch, slice(chunk.start, chunk.stop))

    def refuse_size(self, lane: Lane) -> None:
        """Send the lane's flight again in parts; give up a single record that is too large."""
        lane.shrink(_REFUSED)
        if len(lane.flight or ()) > 1:
            lane.recall(in_doubt=False)
            return
        for chunk in lane.land():
            self._give_up(chunk, terms.MESSAGE_TOO_LARGE)

    def refuse_times(self, lane: Lane) -> None:
        """Send the lane's flight again in parts; give up a part of one time that is refused.

        Counters are sent again without a time.
        """
        runs = sum(times.runs(chunk.times) for chunk in lane.flight.chunks) if lane.flight else 0
        if runs > 1:
            lane.max_runs = runs // _REFUSED
            lane.recall(in_doubt=False)
            return
        for chunk in lane.land():
            if (batch := times.without_time(chunk.batch)) is None:
                self._give_up(chunk, terms.INVALID_TIMESTAMP)
            else:
                chunk.batch = batch
                lane.waiting.appendleft(chunk)

    def expire(self, now: float) -> None:
        """Give up waiting records whose deadline has passed."""
        for lane in self:
            while lane.waiting and lane.waiting[0].deadline <= now:
                self._give_up(lane.waiting.popleft(), terms.DELIVERY_TIMEOUT)

    def give_up_all(self, cause: str, was_sent: Callable[[str, int], bool]) -> None:
        """Give up everything; flights that were sent, by topic and partition, are in doubt."""
        for lane in self:
            lane.recall(in_doubt=was_sent(lane.topic, lane.partition))
            while lane.waiting:
                self._give_up(lane.waiting.popleft(), cause)

    def recall(self, was_sent: Callable[[str, int], bool]) -> None:
        """End every flight; those that were sent, by topic and partition, are in doubt."""
        for lane in self:
            if lane.flight is not None:
                lane.shrink(_UNANSWERED)
                lane.recall(in_doubt=was_sent(lane.topic, lane.partition))

    def in_flight(self) -> bool:
        """Say whether there is any flight."""
        return any(lane.flight is not None for lane in self._lanes.values())

    def _lane(self, topic: str, partition: int) -> Lane:
        address = (topic, partition)
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = Lane(*address)
        return lane

    def _give_up(self, chunk: Chunk, cause: str) -> None:
        counter = self.in_doubt if chunk.in_doubt else self.failed
        report = self._outcomes.in_doubt if chunk.in_doubt else self._outcomes.failed
        counter[cause] += len(chunk)
        self._space.give(chunk.size)
        report(chunk.batch, slice(chunk.start, chunk.stop), cause)

"""Records that a Kafka sink accepted and has not settled, in order, by partition.

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
from operator import attrgetter
from typing import TYPE_CHECKING

from flowstream.accounting import terms
from flowstream.kafka import times
from flowstream.kafka.lane import UNLIMITED, Chunk, Lane
from flowstream.kafka.refusals import Division

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.delivery.space import Space
    from flowstream.kafka.refusals import Refusal
    from flowstream.messages import MessageBatch

# Divisors of a flight's records: after a refusal, which costs one request, and after
# no answer, which costs many seconds.
_REFUSED = 2
_UNANSWERED = 16


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
        # The brokers' words for the last refusals, by cause.
        self.reasons: dict[str, str] = {}

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
        lane.max_runs = min(2 * lane.max_runs, UNLIMITED)
        for chunk in lane.land():
            self._space.give(chunk.size)
            self._outcomes.acknowledged(chunk.batch, slice(chunk.start, chunk.stop))

    def refuse(self, lane: Lane, refusal: Refusal) -> None:
        """Send the lane's flight again in parts; give up what cannot be divided further."""
        if refusal.division is Division.TIMES:
            self._refuse_times(lane)
        elif refusal.division is Division.RECORDS and len(lane.flight or ()) > 1:
            lane.shrink(_REFUSED)
            lane.recall(in_doubt=False)
        else:
            for chunk in lane.land():
                self._give_up(chunk, refusal.cause)

    def explain(self, cause: str, text: str) -> None:
        """Keep the broker's words, if there are any, for the log."""
        if text:
            self.reasons[cause] = text

    def close(self, lane: Lane, cause: str) -> None:
        """Give up what waits in the lane."""
        while lane.waiting:
            self._give_up(lane.waiting.popleft(), cause)

    def _refuse_times(self, lane: Lane) -> None:
        """Divide by times; a part of one time that is refused is given up.

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
            self.close(lane, cause)

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

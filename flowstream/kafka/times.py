"""Messages whose times the broker refuses: too far from its clock, by the topic's limits.

A broker refuses a whole batch for one such message. Batches are divided where the time
changes, because messages of the same time are accepted or refused together.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.messages import MessageBatch

NO_TIMESTAMP: Final = -1
"""A broker takes a message without a time at any time (RecordBatch.java)."""


def runs(times: Sequence[int]) -> int:
    """Count the runs of equal times."""
    return bool(times) + sum(one != other for one, other in pairwise(times))


def within(times: Sequence[int], most: int) -> int:
    """Return how many of the times are in the first ``most`` runs, one or more."""
    for number, (one, other) in enumerate(pairwise(times), 1):
        most -= one != other
        if not most:
            return number
    return len(times)


def without_time(batch: MessageBatch) -> MessageBatch | None:
    """Return a batch of counters without message times; None if they cannot be removed.

    Counters matter most when records are lost, and their values contain the time.
    """
    if batch.stream is not Stream.COUNTERS or NO_TIMESTAMP in batch.timestamps_ms:
        return None
    return replace(batch, timestamps_ms=[NO_TIMESTAMP] * len(batch))

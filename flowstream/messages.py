"""Batches of messages: what travels to a sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from flowstream.accounting.tally import Tally
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Messages for one partition, in order; ``keys``, ``values`` and ``tally`` are parallel."""

    stream: Stream
    topic: str
    partition: int
    timestamp_ms: int
    keys: list[bytes]
    values: list[bytes]
    tally: Tally

    def __len__(self) -> int:
        return len(self.values)


Headers = tuple[tuple[str, bytes | None], ...]


class Row(NamedTuple):
    """A message as another topic or a recording has it; None where key or value is missing."""

    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class CopiedBatch(EncodedBatch):
    """Messages that are copied, with all that they have; parallel to ``rows``.

    ``keys`` and ``values`` are empty where a row has None. ``offsets`` are those
    of the place that they are copied from, where that is known, else empty. It
    belongs to no run's books: ``stream`` says nothing.
    """

    rows: list[Row]
    offsets: list[int]

    @classmethod
    def of(cls, topic: str, partition: int, rows: list[Row], offsets: Sequence[int] = ()) -> Self:
        """Batch of ``rows``, at least one, for one partition."""
        return cls(
            stream=Stream.FLOWS,
            topic=topic,
            partition=partition,
            timestamp_ms=rows[0].timestamp_ms,
            keys=[row.key or b"" for row in rows],
            values=[row.value or b"" for row in rows],
            tally=Tally.empty(len(rows)),
            rows=rows,
            offsets=list(offsets),
        )

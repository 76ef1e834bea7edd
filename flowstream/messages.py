"""What travels between the stages: batches, never single records."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Stream(enum.StrEnum):
    """What a record belongs to; the topic is ``PREFIX.STREAM``."""

    FLOWS = "flows"
    NEW_FLOWS = "new_flows"
    COUNTERS = "counters"


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records as the capture hands them on.

    ``records`` has shape (n,) and the dtype ``flowstream.layouts.xdp_flow.FLOW_RECORD``
    (packed, big-endian fields, MessagePack tags in place). The array owns its
    memory: nothing in it aliases a kernel buffer. Times are Unix nanoseconds;
    ``agent_epoch``, ``host_id`` and ``seq`` are not stamped yet.
    """

    stream: Stream
    records: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Tally:
    """What each record of a batch stands for, so that any part of it can be accounted for.

    Three arrays of shape (n,): interface index, packets, frame octets. Records
    that announce (new_flows) or count (counters) stand for no packets: zeros.
    """

    in_if: NDArray[np.uint32]
    packets: NDArray[np.uint64]
    l2_bytes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.in_if)

    def __getitem__(self, part: slice | NDArray[Any]) -> Tally:
        return Tally(self.in_if[part], self.packets[part], self.l2_bytes[part])

    @classmethod
    def empty(cls, n: int = 0) -> Tally:
        """Tally of ``n`` records that belong to no interface and carry no packets."""
        return cls(np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64))


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

"""Messages: batches on their way to a sink, and single ones as a source reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.accounting.tally import Tally
    from flowstream.streams import Stream

Headers = tuple[tuple[str, bytes | None], ...]


class Record(Protocol):
    """The part of aiokafka's records, from a broker or from a batch, that a message needs."""

    @property
    def offset(self) -> int:
        """Place in the partition."""

    @property
    def timestamp(self) -> int:
        """Unix milliseconds."""

    @property
    def key(self) -> bytes | None:
        """Key, if there is one."""

    @property
    def value(self) -> bytes | None:
        """Value, if there is one."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Name and content of each."""


class Message(NamedTuple):
    """One record of a topic; ``timestamp_ms`` is Unix milliseconds.

    A record without a value (a tombstone, which flowstream never writes) has
    the empty value and ``is_null``.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: Headers = ()
    is_null: bool = False

    @property
    def place(self) -> str:
        """Topic, partition and offset, for people."""
        return f"topic {self.topic}, partition {self.partition}, offset {self.offset}"

    @classmethod
    def of(cls, topic: str, partition: int, record: Record) -> Self:
        """Make a message of a record that aiokafka read."""
        return cls(
            topic,
            partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value or b"",
            tuple(record.headers),
            record.value is None,
        )


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """Messages for one partition, in order.

    ``timestamps_ms`` (Unix milliseconds), ``keys`` and ``values`` are parallel.
    ``headers`` and ``offsets`` are parallel to them or empty: empty ``headers``
    mean that no message has any; ``offsets`` are those of the place that the
    messages were copied from. ``stream``, ``tally`` and ``agent_epoch``, the run
    that made them, are for accounting: None for messages that belong to no run's ledger.
    """

    topic: str
    partition: int
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] = ()
    offsets: Sequence[int] = ()
    stream: Stream | None = None
    tally: Tally | None = None
    agent_epoch: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def copy_of(cls, messages: Sequence[Message]) -> Self:
        """Batch of ``messages``, at least one, all of one partition."""
        first = messages[0]
        return cls(
            topic=first.topic,
            partition=first.partition,
            timestamps_ms=[message.timestamp_ms for message in messages],
            keys=[message.key for message in messages],
            values=[None if message.is_null else message.value for message in messages],
            headers=[message.headers for message in messages],
            offsets=[message.offset for message in messages],
        )

    def part(self, part: slice) -> MessageBatch:
        """Return these messages, a slice with step 1, as a batch."""
        if part == slice(0, len(self)):
            return self
        return replace(
            self,
            timestamps_ms=self.timestamps_ms[part],
            keys=self.keys[part],
            values=self.values[part],
            headers=self.headers[part],
            offsets=self.offsets[part],
            tally=None if self.tally is None else self.tally[part],
        )

    @property
    def octets(self) -> int:
        """Octets of all keys, values and headers."""
        headers = chain.from_iterable(chain.from_iterable(self.headers))
        return sum(map(len, filter(None, chain(self.keys, self.values, headers))))

    def fields(
        self, part: slice
    ) -> Iterator[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
        """Yield timestamp, key, value and headers of each message in ``part``."""
        headers = map(list, self.headers[part]) if self.headers else repeat([])
        return zip(
            self.timestamps_ms[part], self.keys[part], self.values[part], headers, strict=False
        )

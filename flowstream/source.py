"""Sources: reading topics back, from a Kafka cluster or from a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from flowstream.errors import UsageError
from flowstream.messages import Row
from flowstream.urls import DirectoryUrl, KafkaUrl, parse_url_or_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowstream.messages import Headers

__all__ = ["Message", "Source", "open_source"]


class Record(Protocol):
    """The part of aiokafka's records, from a broker or out of a batch, that a message needs."""

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

    @classmethod
    def of(cls, topic: str, partition: int, record: Record) -> Self:
        """Make a message of a record as aiokafka reads it."""
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

    def row(self) -> Row:
        """Return the message without its place, to be copied."""
        value = None if self.is_null else self.value
        return Row(self.timestamp_ms, self.key, value, self.headers)


class Source(Protocol):
    """Topics to be read from their beginning up to what they hold at the start."""

    @property
    def warnings(self) -> Sequence[str]:
        """What the reading so far had to leave out, a line each; empty when nothing."""

    async def sizes(self) -> dict[str, list[int]]:
        """Return the messages in each partition of each topic now, about: a list from 0 on.

        Raises ``SourceError`` where a topic does not exist or cannot be read.
        """

    def batches(self) -> AsyncIterator[list[Message]]:
        """Return an iterator over all messages in lists of bounded size, none empty.

        Order holds within a partition. Raises ``SourceError``, naming topic,
        partition and offset where there is one, after everything before it.
        """


def open_source(url: str, topics: Sequence[str]) -> Source:
    """Return the source that ``url`` names: kafka://HOST:PORT[,...], file:DIR or a plain DIR.

    Nothing is read yet. Raises ``UsageError``.
    """
    where = parse_url_or_directory(url)
    # Only what is used is imported: aiokafka's client alone takes a tenth of a second.
    if isinstance(where, KafkaUrl):
        from flowstream.kafka.source import KafkaSource  # noqa: PLC0415

        return KafkaSource(where.addresses, topics)
    if isinstance(where, DirectoryUrl):
        from flowstream.segments.source import SegmentSource  # noqa: PLC0415

        return SegmentSource(where.path, topics)
    raise UsageError(f"{url!r} cannot be read back; use kafka://HOST:PORT or a recording")

"""Records with their messages, their rows in a table, and the interface of writers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from flowstream.errors import UsageError
from flowstream.records import CountersRecord, FlowRecord, to_dict
from flowstream.records.decoding import flow_extras
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.messages import Message

    Read = tuple[Message, FlowRecord | CountersRecord]


class Writer(Protocol):
    """Writes records to an open file; ``close`` completes the content, not the file."""

    def write(self, batch: Sequence[Read]) -> None:
        """Write records; lines reach the operating system at once."""

    def write_undecoded(self, messages: Sequence[Message]) -> bool:
        """Write messages without decoding them; return False if that is not possible."""

    def close(self) -> None:
        """Write the end of the format, if it has one."""


def extras(message: Message, record: FlowRecord | CountersRecord) -> tuple[str, str]:
    """Host and Community ID beside a flow record; a counters record has its own."""
    return flow_extras(message.value) if isinstance(record, FlowRecord) else ("", "")


class OneKind:
    """Columns of a table: those of flow records or those of counters, by the first record.

    ``record`` is the kind; ``presumed`` is the one of a table without records.
    """

    def __init__(self, table: str, topics: Sequence[str]) -> None:
        self._table = table
        self.record: type[FlowRecord | CountersRecord] | None = None
        counters = all(topic.endswith(f".{Stream.COUNTERS}") for topic in topics)
        self.presumed = CountersRecord if topics and counters else FlowRecord

    def rows(self, batch: Sequence[Read]) -> list[dict[str, Any]]:
        """Return the rows of these records; UsageError if they are of both kinds."""
        rows = []
        for message, record in batch:
            kind = type(record)
            if self.record is None:
                self.record = kind
            elif kind is not self.record:
                raise UsageError(
                    f"{message.place}: a {_NOUNS[kind]} record among {_NOUNS[self.record]} "
                    f"records, which have other columns in {self._table}; choose one topic"
                )
            host, community_id = extras(message, record)
            row = to_dict(record, host=host, community_id=community_id)
            if kind is FlowRecord:
                row.setdefault("community_id", "")
            rows.append(row)
        return rows


_NOUNS: Final[dict[type, str]] = {FlowRecord: "flow", CountersRecord: "counters"}

"""Record of each topic, and the columns of its JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records import CountersRecord, FlowRecord, RecordType
from flowstream.records.describe import Field, named_fields
from flowstream.streams import Stream

if TYPE_CHECKING:
    from msgspec import Struct

PREFIX: Final = "flowstream"
"""Prefix of the topics in definitions that name one."""
RECORD_TYPES: Final = {
    Stream.FLOWS: RecordType.FLOW,
    Stream.NEW_FLOWS: RecordType.NEW_FLOW,
    Stream.COUNTERS: RecordType.COUNTERS,
}


def record_of(stream: Stream) -> type[Struct]:
    """Record that the topic carries."""
    return CountersRecord if stream is Stream.COUNTERS else FlowRecord


def json_fields(stream: Stream) -> tuple[Field, ...]:
    """Fields of the topic's JSON values, in their order."""
    return named_fields(record_of(stream))


def sql_comment(field: Field) -> str:
    """Description of a field for a literal in single quotes."""
    return field.description.replace("'", "''")

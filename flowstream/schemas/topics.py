"""Record of each topic, and the columns of its JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import NODEFAULT

from flowstream.records import SCHEMA_VERSION, CountersRecord, FlowRecord, RecordType
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


def names(stream: Stream) -> dict[str, object]:
    """What definitions name: the topic, a table, the field with the time of an event."""
    return {
        "name": f"{PREFIX}_{stream}",
        "topic": f"{PREFIX}.{stream}",
        "time": "time_unix_ns" if stream is Stream.COUNTERS else "time_flow_end_ns",
        "record_type": int(RECORD_TYPES[stream]),
        "schema_version": SCHEMA_VERSION,
    }


def required(stream: Stream) -> list[str]:
    """Fields that every JSON value has beside its type and version."""
    return [each.name for each in json_fields(stream) if each.default is NODEFAULT][2:]


def sql_comment(field: Field) -> str:
    """Description of a field for a literal in single quotes.

    Without semicolons: many programs that read SQL, Flink's client among them, cut
    statements at every one.
    """
    return field.description.replace("'", "''").replace(";", ",")

"""Which record a topic carries, and the columns that its JSON values have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records import CountersRecord, FlowRecord, RecordType
from flowstream.records.describe import Field, fields
from flowstream.records.fields import Kind
from flowstream.records.json_form import FlowJson
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


def json_fields(stream: Stream) -> list[Field]:
    """Fields of the topic's JSON values, in their order: the record's, and ``host``."""
    found = list(fields(record_of(stream)))
    if stream is not Stream.COUNTERS:
        host = Field("host", Kind.TEXT, 0, "name of the host")
        found.insert(FlowJson.__struct_fields__.index("host"), host)
    return found

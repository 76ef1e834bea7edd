"""Avro values, read by fastavro; importing this needs the extra ``readers``."""

from __future__ import annotations

import io
from typing import Any, Final

import fastavro
import msgspec
from msgspec import Struct

from flowstream.records import avro_schema
from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord, RecordType

_SCHEMAS: Final[dict[type[Struct], Any]] = {
    record: fastavro.parse_schema(avro_schema.schema(record))
    for record in (FlowRecord, CountersRecord)
}
_LONGS: Final = {
    record: [field.name for field in fields(record) if field.kind is Kind.U64]
    for record in _SCHEMAS
}
_COUNTERS: Final = 2 * RecordType.COUNTERS  # zigzag


def read(value: bytes) -> FlowRecord | CountersRecord:
    """Read one datum without a frame; ValueError when it is no record.

    It is read by the schema of this version: fields that the writer's has
    besides stand at the end and are left unread.
    """
    if value[0] == _COUNTERS:
        return msgspec.convert(_values(CountersRecord, value), CountersRecord)
    return msgspec.convert(_values(FlowRecord, value), FlowRecord)


def _values(record: type[Struct], value: bytes) -> list[Any]:
    try:
        datum: Any = fastavro.schemaless_reader(io.BytesIO(value), _SCHEMAS[record], None)
    # Whatever its reader stumbles over: ends, lengths, counts, text.
    except Exception as err:
        raise ValueError(f"Avro that cannot be read: {err or type(err).__name__}") from err
    _unsigned(datum, _LONGS[record])
    return list(datum.values())


def _unsigned(datum: dict[str, Any], names: list[str]) -> None:
    """Avro's longs are signed: they carry the same 64 bits."""
    for name in names:
        datum[name] &= 0xFFFF_FFFF_FFFF_FFFF

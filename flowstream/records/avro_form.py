"""Avro values, read by fastavro; importing this needs the extra ``readers``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import fastavro
import msgspec

from flowstream.layouts.constants import RecordType
from flowstream.records import avro_schema
from flowstream.records.counters import CountersRecord
from flowstream.records.flow import FlowRecord
from flowstream.records.json_form import (
    CountersJson,
    FlowJson,
    counters_form,
    counters_record,
    flow_form,
    flow_record,
)

if TYPE_CHECKING:
    from msgspec import Struct

_SCHEMAS: Final[dict[type[Struct], Any]] = {
    record: fastavro.parse_schema(avro_schema.schema(record))
    for record in (FlowRecord, CountersRecord)
}
_COUNTERS: Final = 2 * RecordType.COUNTERS  # zigzag


def read(value: bytes) -> FlowRecord | CountersRecord:
    """Read one datum without a prefix; ValueError when it is not a record.

    It is read by the schema of this version: fields that a newer writer added
    stand at the end and stay unread.
    """
    # A datum has the fields, and the text, of the JSON form.
    if value[0] == _COUNTERS:
        return counters_record(msgspec.convert(_datum(CountersRecord, value), CountersJson))
    return flow_record(msgspec.convert(_datum(FlowRecord, value), FlowJson))


def write(record: FlowRecord | CountersRecord, host: str, community_id: str) -> bytes:
    """Datum of ``record``, without a prefix."""
    form = (
        counters_form(record)
        if isinstance(record, CountersRecord)
        else flow_form(record, host, community_id)
    )
    datum = io.BytesIO()
    fastavro.schemaless_writer(datum, _SCHEMAS[type(record)], msgspec.to_builtins(form))
    return datum.getvalue()


def extras(value: bytes) -> tuple[str, str]:
    """Host and Community ID of a flow record's datum, which ``read`` has accepted."""
    datum = _datum(FlowRecord, value)
    return datum["host"], datum["community_id"]


def _datum(record: type[Struct], value: bytes) -> Any:
    try:
        return fastavro.schemaless_reader(io.BytesIO(value), _SCHEMAS[record], None)
    except EOFError as err:  # its text may show the address of an object
        raise ValueError("Avro that cannot be read: it ends too early") from err
    # fastavro raises exceptions of many types for damaged data.
    except Exception as err:
        raise ValueError(f"Avro that cannot be read: {err or type(err).__name__}") from err

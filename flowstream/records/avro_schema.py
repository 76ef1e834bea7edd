"""Avro schema of a record.

Avro's readers are SQL engines: addresses, MAC addresses and the host id are text,
which a plain table reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import NODEFAULT, to_builtins

from flowstream.records.describe import named_fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from msgspec import Struct

    from flowstream.records.describe import Field

_NAMESPACE: Final = "flowstream"
# As Avro's own Java classes write it: their readers then get java.lang.String.
_STRING: Final = {"type": "string", "avro.java.string": "String"}
# Avro has no unsigned numbers: an int has 32 bits, a long 64.
_TYPES: Final[dict[Kind, Any]] = {
    Kind.U8: "int",
    Kind.U16: "int",
    Kind.U32: "long",
    Kind.U64: "long",
    Kind.BOOL: "boolean",
    Kind.TEXT: _STRING,
    Kind.ADDRESS: _STRING,
    Kind.HOST_ID: _STRING,
    Kind.MAC: _STRING,
}


def schema(record: type[Struct]) -> dict[str, Any]:
    """Avro schema of a record; optional fields have a default."""
    return {"namespace": _NAMESPACE, **_record(record, set())}


def _record(record: type[Struct], defined: set[str]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": record.__name__,
        "doc": (record.__doc__ or "").partition("\n")[0],
        "fields": [_field(field, defined) for field in named_fields(record)],
    }


def _field(field: Field, defined: set[str]) -> dict[str, Any]:
    written = {
        "name": field.name,
        "type": _type(field, defined),
        "doc": field.description,
    }
    if field.default is NODEFAULT:
        return written
    return {**written, "default": to_builtins(field.default)}


def _type(field: Field, defined: set[str]) -> Any:
    if field.record is None:
        return _TYPES[field.kind]
    part = _once(field.record, defined)
    if field.kind is Kind.PART:
        return part
    return {"type": "map", "values": part, "avro.java.string": "String"}


def _once(part: type[Struct], defined: set[str]) -> Any:
    """Define a part where it first stands; after that return its name."""
    if part.__name__ in defined:
        return part.__name__
    defined.add(part.__name__)
    return _record(part, defined)

"""Avro schema of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import NODEFAULT

from flowstream.records.describe import fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from msgspec import Struct

    from flowstream.records.describe import Field

_NAMESPACE: Final = "flowstream"
# Avro has no unsigned numbers: an int has 32 bits, a long 64.
_SIMPLE: Final = {
    Kind.U8: "int",
    Kind.U16: "int",
    Kind.U32: "long",
    Kind.U64: "long",
    Kind.BOOL: "boolean",
    Kind.TEXT: "string",
}
_FIXED: Final = {
    Kind.ADDRESS: ("Address", 16),
    Kind.HOST_ID: ("HostId", 16),
    Kind.MAC: ("Mac", 6),
}


def schema(record: type[Struct]) -> dict[str, Any]:
    """Avro schema of a record; fields that have a default have it here too."""
    return {"namespace": _NAMESPACE, **_record(record, set())}


def _record(record: type[Struct], defined: set[str]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": record.__name__,
        "doc": (record.__doc__ or "").partition("\n")[0],
        "fields": [_field(field, defined) for field in fields(record)],
    }


def _field(field: Field, defined: set[str]) -> dict[str, Any]:
    written = {
        "name": field.name,
        "type": _type(field, defined),
        "doc": field.description,
    }
    return written if field.default is NODEFAULT else {**written, "default": field.default}


def _type(field: Field, defined: set[str]) -> Any:
    if field.kind in _FIXED:
        name, size = _FIXED[field.kind]
        return _once(name, {"type": "fixed", "name": name, "size": size}, defined)
    if field.record is None:
        return _SIMPLE[field.kind]
    part = field.record
    inner = _once(part.__name__, _record(part, defined), defined)
    return {"type": "map", "values": inner} if field.kind is Kind.MAP else inner


def _once(name: str, definition: dict[str, Any], defined: set[str]) -> Any:
    """Define a name where it first stands; after that the name itself."""
    if name in defined:
        return name
    defined.add(name)
    return definition

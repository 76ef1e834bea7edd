"""Protobuf definition of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord

if TYPE_CHECKING:
    from msgspec import Struct

    from flowstream.records.describe import Field

PACKAGE: Final = "flowstream"
MESSAGES: Final[dict[type[Struct], str]] = {
    FlowRecord: "FlowMessage",
    CountersRecord: "CountersMessage",
}
"""Names of the records' messages; that of a part is its own."""

_TYPES: Final = {
    Kind.U8: "uint32",
    Kind.U16: "uint32",
    Kind.U32: "uint32",
    Kind.U64: "uint64",
    Kind.ADDRESS: "bytes",
    Kind.HOST_ID: "bytes",
    Kind.MAC: "uint64",
    Kind.BOOL: "bool",
    Kind.TEXT: "string",
}
# Where GoFlow2's type is wider than the field.
_GOFLOW2_TYPES: Final = {"sampling_rate": "uint64"}

_HEAD: Final = f"""\
// Names, numbers and types below 1000 are those of GoFlow2's flow.proto.
// A MAC address is the number that its octets are in network order. An IPv4
// address is v4-mapped: 16 octets.
syntax = "proto3";
package {PACKAGE};
"""


def definition(record: type[Struct]) -> str:
    """Text of a .proto file; the record's message is its first."""
    parts: dict[str, type[Struct]] = {}
    for field in fields(record):
        if field.record is not None:
            parts[field.record.__name__] = field.record
    messages = [_message(MESSAGES[record], record)]
    messages += [_message(name, part) for name, part in parts.items()]
    return "\n".join([_HEAD, *messages])


def _message(name: str, record: type[Struct]) -> str:
    (about, *_) = (record.__doc__ or "").replace("``", "").splitlines()
    lines = [f"// {about}", f"message {name} {{"]
    for field in sorted(fields(record), key=lambda field: field.number):
        lines += [f"  // {field.description}", f"  {_type(field)} {field.name} = {field.number};"]
    return "\n".join([*lines, "}", ""])


def scalar_type(field: Field) -> str:
    """Protobuf's type of a field that is neither a record nor a map."""
    return _GOFLOW2_TYPES.get(field.name, _TYPES[field.kind])


def _type(field: Field) -> str:
    if field.record is None:
        return scalar_type(field)
    part = field.record.__name__
    return f"map<string, {part}>" if field.kind is Kind.MAP else part

"""Protobuf definition of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records.counters import CountersRecord
from flowstream.records.describe import protobuf_fields
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
"""Names of the records' messages; a part's message has the part's name."""

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
// Every value is length-delimited: a varint of the message's length stands before
// it; with a schema registry the registry's prefix stands there instead.
// A MAC address is the number that its octets are in network order. An address
// of IPv4 has 4 octets, one of IPv6 16.
syntax = "proto3";
package {PACKAGE};

option go_package = "flowstream/flowstreampb";
// Not the package: Avro's classes have names of these messages' parts there.
option java_package = "flowstream.protobuf";
option java_multiple_files = true;
"""


def definition(record: type[Struct]) -> str:
    """Text of a .proto file; the record's message is its first."""
    parts: dict[str, type[Struct]] = {}
    for field in protobuf_fields(record):
        if field.record is not None:
            parts[field.record.__name__] = field.record
    messages = [_message(MESSAGES[record], record)]
    messages += [_message(name, part) for name, part in parts.items()]
    return "\n".join([_HEAD, *messages])


def _message(name: str, record: type[Struct]) -> str:
    (about, *_) = (record.__doc__ or "").replace("``", "").splitlines()
    lines = [f"// {about}", f"message {name} {{"]
    for field in protobuf_fields(record):
        lines += [f"  // {field.description}", f"  {_type(field)} {field.name} = {field.number};"]
    return "\n".join([*lines, "}", ""])


def scalar_type(field: Field) -> str:
    """Protobuf's type of a field that is neither a map nor a part."""
    return _GOFLOW2_TYPES.get(field.name, _TYPES[field.kind])


def _type(field: Field) -> str:
    if field.record is None:
        return scalar_type(field)
    name = field.record.__name__
    return name if field.kind is Kind.PART else f"map<string, {name}>"

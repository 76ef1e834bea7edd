"""Layout of a flow record in MessagePack, for programs that read it by offset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from flowstream.layouts.flow_offsets import FLOW_RECORD, FLOW_RECORD_OCTETS
from flowstream.records import SCHEMA_VERSION, FlowRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from flowstream.records.describe import Field

_TYPES: Final = {
    Kind.U8: "u8",
    Kind.U16: "u16",
    Kind.U32: "u32",
    Kind.U64: "u64",
    Kind.ADDRESS: "octets",
    Kind.HOST_ID: "octets",
    Kind.MAC: "octets",
    Kind.TEXT: "text",
}
_UNITS: Final = {
    "agent_epoch": "ns",
    "time_received_ns": "ns",
    "time_flow_start_ns": "ns",
    "time_flow_end_ns": "ns",
    "src_net": "bits",
    "dst_net": "bits",
    "packets": "packets",
    "bytes": "octets",
    "l2_bytes": "octets",
    "flow_count": "flows",
}
_IPFIX: Final = re.compile(r"\(IPFIX ([\d, ]+)\)")


def document() -> dict[str, Any]:
    """Offset, number of octets, type and meaning of every field, in their order.

    ``unit`` and ``ipfix`` (the numbers of IANA's elements) stand where there is one.
    """
    return {
        "title": "flowstream flow record in MessagePack",
        "description": "Offsets and sizes in octets. Integers are unsigned and big-endian; "
        "text is padded with NUL. Later versions may add fields at the end.",
        "schema_version": SCHEMA_VERSION,
        "octets": FLOW_RECORD_OCTETS,
        "fields": [_described(field) for field in fields(FlowRecord)],
    }


def _described(field: Field) -> dict[str, Any]:
    offset, octets = FLOW_RECORD[field.name]
    found = {
        "name": field.name,
        "offset": offset,
        "octets": octets,
        "type": _TYPES[field.kind],
        "description": field.description,
    }
    if field.name in _UNITS:
        found["unit"] = _UNITS[field.name]
    if elements := _IPFIX.search(field.description):
        found["ipfix"] = [int(number) for number in elements[1].split(", ")]
    return found

"""Layout of a flow record in MessagePack, for programs that read it by offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.records import SCHEMA_VERSION, FlowRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def document() -> dict[str, Any]:
    """Offset, number of octets and type of every field, in their order."""
    placed: Mapping[str, Any] = FLOW_RECORD.fields or {}
    return {
        "title": "flowstream flow record in MessagePack",
        "description": "Offsets and sizes in octets. Integers are unsigned and big-endian; "
        "text is padded with NUL. Later versions may add fields at the end.",
        "schema_version": SCHEMA_VERSION,
        "octets": FLOW_RECORD.itemsize,
        "fields": [
            {
                "name": field.name,
                "offset": placed[field.name][1],
                "octets": placed[field.name][0].itemsize,
                "type": _TYPES[field.kind],
                "description": field.description,
            }
            for field in fields(FlowRecord)
        ],
    }

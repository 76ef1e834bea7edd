"""MessagePack values of flow records: the kernel's fixed layout (bpf/flow_record.h)."""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord

if TYPE_CHECKING:
    from flowstream.records.describe import Field

_NAME_OCTETS: Final = 15
# Tags of MessagePack, and the code of struct for the number behind them.
_INTEGERS: Final = {
    Kind.U8: (b"\xcc", "B"),
    Kind.U16: (b"\xcd", "H"),
    Kind.U32: (b"\xce", "I"),
    Kind.U64: (b"\xcf", "Q"),
}
_OCTETS: Final = {Kind.ADDRESS: 16, Kind.HOST_ID: 16, Kind.MAC: 6}
_values: Final = attrgetter(*FlowRecord.__struct_fields__)
_NAME: Final = FlowRecord.__struct_fields__.index("if_name")


def _head(field: Field) -> bytes:
    if field.kind in _INTEGERS:
        return _INTEGERS[field.kind][0]
    if field.kind is Kind.TEXT:
        return bytes([0xA0 | _NAME_OCTETS])
    return bytes([0xC4, _OCTETS[field.kind]])


def _code(field: Field) -> str:
    if field.kind in _INTEGERS:
        return _INTEGERS[field.kind][1]
    return f"{_NAME_OCTETS if field.kind is Kind.TEXT else _OCTETS[field.kind]}s"


_HEADS: Final = [_head(field) for field in fields(FlowRecord)]
_LAYOUT: Final = struct.Struct(
    ">3s"
    + "".join(
        f"{len(head)}s{_code(field)}"
        for head, field in zip(_HEADS, fields(FlowRecord), strict=True)
    )
)
_ARRAY: Final = struct.pack(">BH", 0xDC, len(_HEADS))


def write(record: FlowRecord) -> bytes:
    """Value of a flow record, octet by octet as an agent publishes it."""
    values = list(_values(record))
    values[_NAME] = _name(values[_NAME])
    cells: list[object] = [_ARRAY]
    for head, value in zip(_HEADS, values, strict=True):
        cells += (head, value)
    return _LAYOUT.pack(*cells)


def _name(text: str) -> bytes:
    name = text.encode()
    if len(name) > _NAME_OCTETS:
        raise ValueError(f"if_name {text!r} is longer than {_NAME_OCTETS} octets")
    return name.ljust(_NAME_OCTETS, b"\0")

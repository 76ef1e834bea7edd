"""From a published value, in any format, to the canonical record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import force_setattr

from flowstream.errors import DecodeError
from flowstream.records.counters import CountersRecord
from flowstream.records.flow import FlowRecord, RecordType
from flowstream.records.json_form import CountersJson, FlowJson, counters_record, flow_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class _Head(msgspec.Struct, array_like=True):
    record_type: int


class _JsonHead(msgspec.Struct):
    record_type: int


_msgpack_flow: Final = msgspec.msgpack.Decoder(FlowRecord).decode
_msgpack_counters: Final = msgspec.msgpack.Decoder(CountersRecord).decode
_msgpack_head: Final = msgspec.msgpack.Decoder(_Head).decode
_json_flow: Final = msgspec.json.Decoder(FlowJson).decode
_json_counters: Final = msgspec.json.Decoder(CountersJson).decode
_json_head: Final = msgspec.json.Decoder(_JsonHead).decode

# What msgspec raises on bad input: its own errors, invalid UTF-8 and false
# text (ValueError), too deep nesting.
_BAD_VALUE: Final = (msgspec.MsgspecError, ValueError, RecursionError)

_MSGPACK_ARRAY16: Final = 0xDC
_JSON_OBJECT: Final = ord("{")
_REGISTRY_FRAME: Final = 0x00
_OTHER_NAMES: Final = (b'{"@timestamp":', b'{"TimeFlowStartMs":')
# Tags of sampling_rate, src_addr (an announcement has no sampling rate) and in_if.
_PROTOBUF_STARTS: Final = (3 << 3, 6 << 3 | 2, (18 << 3) & 0x7F | 0x80)


def decode(value: bytes) -> FlowRecord | CountersRecord:
    """Read one published value, JSON or MessagePack (told apart by the first byte).

    Fields that a newer schema version added at the end are ignored.

    Raises DecodeError when the value is empty, cut, followed by anything, of
    wrong types or ranges, of an unknown record type or a schema version below 1.
    """
    if not value:
        raise DecodeError("not a record: the value is empty")
    first = value[0]
    try:
        if first == _MSGPACK_ARRAY16:
            return _from_msgpack(value)
        if first == _JSON_OBJECT:
            return _from_json(value)
    except _BAD_VALUE as err:
        raise DecodeError(f"not a record: {err}") from err
    if first == _REGISTRY_FRAME:
        raise DecodeError(
            "not a record: a schema registry's frame; read it with the registry's deserializer "
            "for Avro or Protobuf"
        )
    if first in _PROTOBUF_STARTS:
        raise DecodeError(
            "not a record: neither JSON nor MessagePack, but maybe Protobuf; "
            "read it with the classes that protoc makes of: flowstream schema protobuf"
        )
    raise DecodeError(f"not a record: neither JSON nor MessagePack (first byte 0x{first:02x})")


def decode_many(values: Iterable[bytes]) -> list[FlowRecord | CountersRecord]:
    """Read many values, in their order.

    Raises DecodeError, as ``decode`` does, that names the index of the first bad value.
    """
    # One call of msgspec for all, with the names stripped after, is no faster.
    records = []
    for index, value in enumerate(values):
        try:
            records.append(decode(value))
        except DecodeError as err:
            raise DecodeError(f"value {index}: {err}") from err.__cause__
    return records


def _from_msgpack(value: bytes) -> FlowRecord | CountersRecord:
    # Flows are the many: what is none is looked at a second time.
    try:
        record = _msgpack_flow(value)
    except msgspec.ValidationError:
        if _is_counters(_msgpack_head, value):
            return _msgpack_counters(value)
        raise
    _strip_name(record)
    return record


def _from_json(value: bytes) -> FlowRecord | CountersRecord:
    try:
        return flow_record(_json_flow(value))
    except msgspec.ValidationError:
        if value.startswith(_OTHER_NAMES):
            raise ValueError(
                "JSON with the names of ecs or netobserv; only goflow2 can be read back"
            ) from None
        if _is_counters(_json_head, value):
            return counters_record(_json_counters(value))
        raise


def _is_counters(head: Callable[[bytes], _Head | _JsonHead], value: bytes) -> bool:
    record_type = head(value).record_type
    if record_type == RecordType.COUNTERS:
        return True
    if record_type not in list(RecordType):
        raise ValueError(f"unknown record type {record_type}")
    return False


def _strip_name(record: FlowRecord) -> None:
    # The layout is fixed, so the name comes padded with NUL to 15 bytes. Setting
    # it here costs a third of what __post_init__ does.
    force_setattr(record, "in_if_name", record.in_if_name.rstrip("\0"))

"""From a published value, in any format, to the canonical record."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import force_setattr

from flowstream.errors import DecodeError
from flowstream.layouts.constants import SCHEMA_VERSION, RecordType
from flowstream.records.binary import binary_form
from flowstream.records.counters import CountersRecord
from flowstream.records.flow import FlowRecord
from flowstream.records.json_form import CountersJson, FlowJson, counters_record, flow_record
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class _Head(msgspec.Struct, array_like=True):
    record_type: int
    schema_version: int = SCHEMA_VERSION


class _JsonExtras(msgspec.Struct):
    host: str
    community_id: str = ""


class _JsonHead(msgspec.Struct):
    record_type: int
    schema_version: int = SCHEMA_VERSION


_msgpack_flow: Final = msgspec.msgpack.Decoder(FlowRecord).decode
_msgpack_counters: Final = msgspec.msgpack.Decoder(CountersRecord).decode
_msgpack_head: Final = msgspec.msgpack.Decoder(_Head).decode
_json_flow: Final = msgspec.json.Decoder(FlowJson).decode
_json_counters: Final = msgspec.json.Decoder(CountersJson).decode
_json_extras: Final = msgspec.json.Decoder(_JsonExtras).decode
_json_head: Final = msgspec.json.Decoder(_JsonHead).decode

_LONGEST_ERROR: Final = 300

_OTHER_NAMES: Final = (b'{"@timestamp":', b'{"TimeFlowStartMs":')
_MSGPACK: Final = b"\xdc\0"
_JSON: Final = ord("{")
_PREFIX: Final = 0x00
_PREFIX_OCTETS: Final = {"avro": 5, "protobuf": 6}
# The octet after a registry's zero and id: Protobuf's index of the message (0), or
# the first octet of an Avro datum, its record_type (zigzag).
_BEHIND_PREFIX: Final = {
    0: "protobuf",
    **dict.fromkeys((2 * kind for kind in RecordType), "avro"),
}


def format_of(value: bytes) -> str | None:
    """Name the format of a published value by its beginning; None when it is none of ours.

    A registry's zero, MessagePack's array and the varint of Protobuf's length
    exclude each other. "{" is also the varint of 123, but no JSON record is that
    short: a value of just that length is Protobuf.
    """
    if not value:
        return None
    if value[0] == _PREFIX:
        return _BEHIND_PREFIX.get(value[5]) if len(value) > _PREFIX_OCTETS["avro"] else None
    if value.startswith(_MSGPACK):
        return "msgpack"
    if _length_octets(value):
        return "protobuf"
    return "json" if value[0] == _JSON else None


def _length_octets(value: bytes) -> int:
    """Octets of the varint at the value's beginning if it is the length of the rest, else 0."""
    length = shift = 0
    for octets, octet in enumerate(value[:5], 1):
        length |= (octet & 0x7F) << shift
        if octet < 0x80:
            return octets if length == len(value) - octets else 0
        shift += 7
    return 0


def decode(value: bytes) -> FlowRecord | CountersRecord:
    """Read one published value in any format, told apart by its beginning.

    Avro is read behind a schema registry's prefix, Protobuf behind such a prefix
    or its length; both need the extra ``readers``. Fields that were added at the
    end are ignored.

    Raises DecodeError when the value is empty, cut, followed by more octets (behind
    a registry's prefix these may be an added field), of wrong types or ranges, of an
    unknown record type or of a schema version that this version does not know;
    MissingExtraError, which is no DecodeError, without that extra.
    """
    record_format = format_of(value)
    if record_format is None:
        raise DecodeError(f"not a record: {_strange(value)}")
    try:
        record = _READERS[record_format](value)
        if record.schema_version > SCHEMA_VERSION:
            raise _unknown_version(record.schema_version)
    except UNDECODABLE as err:
        raise DecodeError(f"not a record: {_short(str(err))}") from err
    return record


def decode_many(values: Iterable[bytes]) -> list[FlowRecord | CountersRecord]:
    """Read many values, in their order.

    Raises DecodeError as ``decode`` does; its text names the index of the first bad value.
    Raises MissingExtraError as ``decode`` does.
    """
    # One call of msgspec for all, with the names stripped afterwards, is no faster.
    records = []
    for index, value in enumerate(values):
        try:
            records.append(decode(value))
        except DecodeError as err:
            raise DecodeError(f"value {index}: {err}") from err.__cause__
    return records


def _short(text: str) -> str:
    """Shorten an error that quotes the value, which may have a megabyte."""
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."


def flow_extras(value: bytes) -> tuple[str, str]:
    """Host and Community ID that stand beside the fields of a flow record's value.

    They are empty where the value has none: MessagePack has neither. The value is one
    that ``decode`` has read.
    """
    match format_of(value):
        case "json":
            extras = _json_extras(value)
            return extras.host, extras.community_id
        case "protobuf" | "avro" as name:
            found: tuple[str, str] = binary_form(name).extras(_body(name, value))
            return found
    return "", ""


def prefix_of(value: bytes) -> bytes:
    """Return a schema registry's prefix of a value; empty without one."""
    record_format = format_of(value)
    if not value or value[0] != _PREFIX or record_format is None:
        return b""
    return value[: _PREFIX_OCTETS[record_format]]


def _strange(value: bytes) -> str:
    if not value:
        return "the value is empty"
    if value[0] == _PREFIX:
        return "a schema registry's prefix without a record of flowstream"
    return (
        f"neither JSON, MessagePack, Protobuf nor a schema registry's prefix "
        f"(first octet 0x{value[0]:02x})"
    )


def _from_msgpack(value: bytes) -> FlowRecord | CountersRecord:
    # Most records are flows: the others are read a second time.
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
                "JSON with the names of ecs or netobserv; only those of goflow2 can be read"
            ) from None
        if _is_counters(_json_head, value):
            return counters_record(_json_counters(value))
        raise


def _from_binary(record_format: str, value: bytes) -> FlowRecord | CountersRecord:
    record: FlowRecord | CountersRecord
    record = binary_form(record_format).read(_body(record_format, value))
    return record


def _body(record_format: str, value: bytes) -> bytes:
    """Value without a registry's prefix, or without its length."""
    start = _PREFIX_OCTETS[record_format] if value[0] == _PREFIX else _length_octets(value)
    return value[start:]


_READERS: Final[Mapping[str, Callable[[bytes], FlowRecord | CountersRecord]]] = {
    "json": _from_json,
    "msgpack": _from_msgpack,
    "protobuf": partial(_from_binary, "protobuf"),
    "avro": partial(_from_binary, "avro"),
}


def _is_counters(head: Callable[[bytes], _Head | _JsonHead], value: bytes) -> bool:
    """Read type and version of a value that is no flow; ValueError when they explain that."""
    found = head(value)
    if found.schema_version > SCHEMA_VERSION:
        raise _unknown_version(found.schema_version)
    if found.record_type not in list(RecordType):
        raise ValueError(f"unknown record type {found.record_type}")
    return found.record_type == RecordType.COUNTERS


def _unknown_version(version: int) -> ValueError:
    return ValueError(
        f"schema version {version}, and this flowstream knows {SCHEMA_VERSION}; upgrade it"
    )


def _strip_name(record: FlowRecord) -> None:
    # The layout is fixed, so the name comes padded with NUL to 15 bytes. Setting
    # it here costs a third of a __post_init__.
    force_setattr(record, "if_name", record.if_name.rstrip("\0"))

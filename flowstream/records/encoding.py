"""From the canonical record to a dict, or to a value in any format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowstream.errors import UsageError
from flowstream.records import msgpack_form
from flowstream.records.binary import binary_form
from flowstream.records.counters import CountersRecord
from flowstream.records.json_form import counters_form, flow_form

if TYPE_CHECKING:
    from msgspec import Struct

    from flowstream.records.flow import FlowRecord

FORMATS: Final = ("json", "msgpack", "protobuf", "avro")
_json: Final = msgspec.json.Encoder().encode
_msgpack: Final = msgspec.msgpack.Encoder().encode


def to_dict(
    record: FlowRecord | CountersRecord, *, host: str = "", community_id: str = ""
) -> dict[str, Any]:
    """Return the fields of ``record`` by name, in their order, as JSON has them.

    Addresses, MAC addresses and ``host_id`` are text, integers are exact, and the
    maps of a counters record are dicts. A flow record does not carry its host's name:
    ``host`` and ``community_id`` are the caller's. Without a Community ID there is no
    such key.
    """
    fields: dict[str, Any] = msgspec.to_builtins(form(record, host, community_id))
    return fields


def encode(
    record: FlowRecord | CountersRecord,
    record_format: str = "json",
    *,
    host: str = "",
    community_id: str = "",
    prefix: bytes = b"",
) -> bytes:
    """Return the value of ``record`` in a format: json, msgpack, protobuf or avro.

    ``decode`` reads it back. ``host`` and ``community_id`` are for the flow records of
    formats that have them, as for ``to_dict``. ``prefix`` is a schema registry's:
    Avro requires one, and Protobuf has its length instead without one. Protobuf and
    Avro need the extra ``readers``. Raises UsageError for an unknown format, a missing
    prefix, MissingExtraError without the extra, and ValueError for values that the
    format cannot hold.
    """
    match record_format:
        case "json":
            return to_json(record, host, community_id)
        case "msgpack":
            if isinstance(record, CountersRecord):
                return _msgpack(record)
            return msgpack_form.write(record)
        case "protobuf":
            message: bytes = binary_form(record_format).write(record, host, community_id)
            return (prefix or _varint(len(message))) + message
        case "avro" if prefix:
            datum: bytes = binary_form(record_format).write(record, host, community_id)
            return prefix + datum
        case "avro":
            raise UsageError("avro: a value needs the prefix of a schema registry")
    raise UsageError(f"format {record_format!r} is unknown; known: {', '.join(FORMATS)}")


def to_json(record: FlowRecord | CountersRecord, host: str = "", community_id: str = "") -> bytes:
    """Return ``encode(record, "json", ...)``, for many records."""
    return _json(form(record, host, community_id))


def form(record: FlowRecord | CountersRecord, host: str, community_id: str) -> Struct:
    """Form with named fields: ``FlowJson`` or ``CountersJson``."""
    if isinstance(record, CountersRecord):
        return counters_form(record)
    return flow_form(record, host, community_id)


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*octets, number))

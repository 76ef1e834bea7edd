"""The JSON form of the records: the same fields as an object, bytes as text, and ``host``.

The Structs are derived from ``FlowRecord`` and ``CountersRecord``, so that a
field, its bounds and its description are written once. They exist to be
encoded, decoded and described (``flowstream.schemas``); whoever reads a topic
gets the canonical records from ``flowstream.records.decode``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from flowstream.records.counters import CountersRecord
from flowstream.records.flow import FlowRecord
from flowstream.records.text import address_bytes, host_id_bytes, mac_bytes

_Record = TypeVar("_Record", FlowRecord, CountersRecord)
_MSGPACK: Final = msgspec.msgpack.Encoder()

# Text is checked where it becomes bytes, which is faster than a pattern per value:
# the patterns are for the schema only.
_HOST_ID = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{32}$"})]
_ADDRESS = Annotated[
    str,
    Meta(
        extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
        examples=["10.0.0.1", "2001:db8::1"],
    ),
]
_MAC = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"})]
_HOST = Annotated[str, Meta(description="name of the host")]
_TEXT: Final[dict[str, Any]] = {
    "host_id": _HOST_ID,
    "src_addr": _ADDRESS,
    "dst_addr": _ADDRESS,
    "src_mac": _MAC,
    "dst_mac": _MAC,
}
_FROM_TEXT: Final = {
    "host_id": host_id_bytes,
    "src_addr": address_bytes,
    "dst_addr": address_bytes,
    "src_mac": mac_bytes,
    "dst_mac": mac_bytes,
}
# By index, because attributes in one go and a list cost half of a dict by name.
_flow_values: Final = attrgetter(*FlowRecord.__struct_fields__)
_FLOW_TEXTS: Final = [
    (FlowRecord.__struct_fields__.index(name), read) for name, read in _FROM_TEXT.items()
]


def _fields(record: type[Struct]) -> list[tuple[str, Any] | tuple[str, Any, Any]]:
    """Fields of ``record`` with the types that JSON has, described alike."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(record):
        name, hint = field.name, field.type
        if name in _TEXT:
            described = [meta for meta in hint.__metadata__ if meta.description]
            hint = Annotated[_TEXT[name], *described]
        fields.append((name, hint) if field.required else (name, hint, field.default))
    return fields


_flow_fields = _fields(FlowRecord)
_flow_fields.insert(FlowRecord.__struct_fields__.index("host_id") + 1, ("host", _HOST))

# A field that has a default is one that may be absent.
FlowJson: Final = msgspec.defstruct(
    "FlowJson", _flow_fields, frozen=True, gc=False, omit_defaults=True
)
CountersJson: Final = msgspec.defstruct(
    "CountersJson", _fields(CountersRecord), frozen=True, omit_defaults=True
)


def flow_record(form: Any) -> FlowRecord:
    """Canonical record of a ``FlowJson``; ValueError where its text or a number is none."""
    values = list(_flow_values(form))
    for index, read in _FLOW_TEXTS:
        values[index] = read(values[index])
    return _of_64_bits(FlowRecord(*values))


def counters_record(form: Any) -> CountersRecord:
    """Canonical record of a ``CountersJson``; ValueError where its text or a number is none."""
    values = msgspec.structs.asdict(form)
    values["host_id"] = host_id_bytes(form.host_id)
    return _of_64_bits(CountersRecord(**values))


def counters_form(record: CountersRecord) -> Struct:
    """``CountersJson`` of ``record``."""
    values = msgspec.structs.asdict(record)
    values["host_id"] = record.host_id.hex()
    return CountersJson(**values)


def _of_64_bits(record: _Record) -> _Record:
    # JSON carries integers of any size, MessagePack of 64 bits at most: what it
    # cannot carry was never published.
    try:
        _MSGPACK.encode(record)
    except OverflowError as err:
        raise ValueError("an integer has more than 64 bits") from err
    return record

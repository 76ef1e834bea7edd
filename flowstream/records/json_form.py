"""The JSON form of the records: an object with the named fields, bytes as text.

The Structs are derived from ``FlowRecord`` and ``CountersRecord``, so that a
field, its bounds and its description are written once. They exist to be
encoded, decoded and described (``flowstream.schemas``); readers of a topic
get the canonical records from ``flowstream.records.decode``. Avro's values
have the same fields with the same text.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields, named_fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord
from flowstream.records.text import (
    address_bytes,
    address_text,
    host_id_bytes,
    mac_bytes,
    mac_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.records.describe import Field

# Text is checked where it becomes bytes, which is faster than a pattern per value:
# the patterns are for the schema only.
_TEXTS: Final[dict[Kind, Any]] = {
    Kind.HOST_ID: Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{32}$"})],
    Kind.ADDRESS: Annotated[
        str,
        Meta(
            extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
            examples=["10.0.0.1", "2001:db8::1"],
        ),
    ],
    Kind.MAC: Annotated[
        str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"})
    ],
}
_FROM_TEXT: Final = {
    Kind.HOST_ID: host_id_bytes,
    Kind.ADDRESS: address_bytes,
    Kind.MAC: mac_bytes,
}


def _members(record: type[Struct]) -> list[tuple[str, Any] | tuple[str, Any, Any]]:
    """Members of the object; one that has a default may be absent."""
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in named_fields(record):
        hint = field.hint
        if field.kind in _TEXTS:
            hint = Annotated[_TEXTS[field.kind], Meta(description=field.description)]
        required = field.default is NODEFAULT
        members.append((field.name, hint) if required else (field.name, hint, field.default))
    return members


FlowJson: Final = msgspec.defstruct(
    "FlowJson", _members(FlowRecord), frozen=True, gc=False, omit_defaults=True
)
# Written whole: engines that infer a schema would miss what the first records omit.
CountersJson: Final = msgspec.defstruct("CountersJson", _members(CountersRecord), frozen=True)


def _texts(record: type[Struct]) -> list[tuple[int, Any]]:
    """Places of the record's fields that are text here, and their readers."""
    return [
        (place, _FROM_TEXT[field.kind])
        for place, field in enumerate(fields(record))
        if field.kind in _FROM_TEXT
    ]


# By place, because attributes in one go and a list cost half of a dict by name.
_flow_values: Final = attrgetter(*FlowRecord.__struct_fields__)
_counters_values: Final = attrgetter(*CountersRecord.__struct_fields__)
_FLOW_TEXTS: Final = _texts(FlowRecord)
_COUNTERS_TEXTS: Final = _texts(CountersRecord)


def flow_record(form: Any) -> FlowRecord:
    """Canonical record of a ``FlowJson``; ValueError when a text is malformed."""
    values = list(_flow_values(form))
    for place, read in _FLOW_TEXTS:
        values[place] = read(values[place])
    return FlowRecord(*values)


_PLACES: Final = {name: place for place, name in enumerate(FlowRecord.__struct_fields__)}
_BEHIND_HOST_ID: Final = _PLACES["host_id"] + 1
_BEHIND_IF_NAME: Final = _PLACES["if_name"] + 1
_packet_address: Final = lru_cache(maxsize=65_536)(address_text)
_mac: Final = lru_cache(maxsize=16_384)(mac_text)
_hex: Final = lru_cache(maxsize=1_024)(bytes.hex)


def flow_form(record: FlowRecord, host: str = "", community_id: str = "") -> Struct:
    """``FlowJson`` of ``record``; the texts are those that it does not carry itself."""
    values = list(_flow_values(record))
    values[_PLACES["host_id"]] = _hex(record.host_id)
    values[_PLACES["sampler_address"]] = _packet_address(record.sampler_address)
    values[_PLACES["src_addr"]] = _packet_address(record.src_addr, record.etype)
    values[_PLACES["dst_addr"]] = _packet_address(record.dst_addr, record.etype)
    values[_PLACES["src_mac"]] = _mac(record.src_mac)
    values[_PLACES["dst_mac"]] = _mac(record.dst_mac)
    index = record.if_index
    values[_BEHIND_IF_NAME:_BEHIND_IF_NAME] = (0, index) if record.flow_direction else (index, 0)
    values.insert(_BEHIND_HOST_ID, host)
    return FlowJson(*values, community_id)


def check_texts(forms: Sequence[Any]) -> None:
    """Check the texts of many ``FlowJson`` as ``flow_record`` does, without making records.

    Raises ValueError when one is malformed.
    """
    for place, read in _FLOW_TEXTS:
        values = attrgetter(FlowRecord.__struct_fields__[place])
        for value in set(map(values, forms)):
            read(value)


def counters_record(form: Any) -> CountersRecord:
    """Canonical record of a ``CountersJson``; ValueError when a text is malformed."""
    values = list(_counters_values(form))
    for place, read in _COUNTERS_TEXTS:
        values[place] = read(values[place])
    return CountersRecord(*values)


def counters_form(record: CountersRecord) -> Struct:
    """``CountersJson`` of ``record``."""
    return CountersJson(
        *(_written(field, getattr(record, field.name)) for field in fields(CountersRecord))
    )


def _written(field: Field, value: Any) -> Any:
    return text(field.kind, value) if field.kind in _TEXTS else value


def text(kind: Kind, value: bytes) -> str:
    """Text of a value of a counters record whose kind is text in JSON and Avro."""
    return address_text(value) if kind is Kind.ADDRESS else value.hex()

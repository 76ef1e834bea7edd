"""Fields of the records, read from their Structs: for every form, schema and encoder.

``fields`` are those of the wire, ``named_fields`` those of the formats whose fields
have names (JSON, Avro), ``protobuf_fields`` those of Protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct

# msgspec reads the annotations at run time.
from flowstream.records.fields import U32, Kind
from flowstream.records.flow import FlowRecord

# GoFlow2's numbers (pb/flow.proto) where it has the field, else numbers from 1000.
# A number belongs to its name forever, in every record.
_NUMBERS: Final = {
    "sampling_rate": 3,
    "sequence_num": 4,
    "src_addr": 6,
    "dst_addr": 7,
    "bytes": 9,
    "packets": 10,
    "sampler_address": 11,
    "src_net": 16,
    "dst_net": 17,
    "in_if": 18,
    "out_if": 19,
    "proto": 20,
    "src_port": 21,
    "dst_port": 22,
    "ip_tos": 23,
    "ip_ttl": 25,
    "tcp_flags": 26,
    "src_mac": 27,
    "dst_mac": 28,
    "vlan_id": 29,
    "etype": 30,
    "icmp_type": 31,
    "icmp_code": 32,
    "flow_direction": 42,
    "time_received_ns": 110,
    "time_flow_start_ns": 111,
    "time_flow_end_ns": 112,
    "record_type": 1000,
    "schema_version": 1001,
    "agent_epoch": 1002,
    "seq": 1003,
    "if_name": 1004,
    "l2_bytes": 1005,
    "end_reason": 1006,
    "host_id": 1007,
    "flow_count": 1008,
    "if_index": 1009,
    "community_id": 1010,
    "host": 1100,
    "agent_version": 1101,
    "program_name": 1102,
    "program_id": 1103,
    "attach_mode": 1104,
    "time_unix_ns": 1105,
    "time_boot_ns": 1106,
    "interval_ns": 1107,
    "counters_period_ns": 1108,
    "seen_packets": 1109,
    "seen_l2_bytes": 1110,
    "no_flow": 1111,
    "losses": 1112,
    "in_doubt": 1113,
    "stages": 1114,
    "table_entries": 1115,
    "table_capacity": 1116,
    "table_swaps": 1117,
    "final": 1118,
    "spool": 1119,
    "netns": 1120,
    "previous_epoch": 1121,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    ``number`` is Protobuf's. ``hint`` is the annotated type. ``default`` is
    ``msgspec.NODEFAULT`` when every value has the field. ``record`` is the Struct
    of a PART, or of a MAP's values; a map's keys are text.
    """

    name: str
    kind: Kind
    number: int
    description: str
    hint: Any
    default: Any = NODEFAULT
    record: type[Struct] | None = None


class _Named(Struct):
    """Fields that stand beside a flow record's where fields have names."""

    host: Annotated[str, Meta(description="name of the host")]
    in_if: Annotated[
        U32, Meta(description="if_index where flow_direction is 0, else 0 (IPFIX 10)")
    ]
    out_if: Annotated[
        U32, Meta(description="if_index where flow_direction is 1, else 0 (IPFIX 14)")
    ]
    community_id: Annotated[
        str,
        Meta(description='Community ID, version 1: "1:" and base64; only where it was asked for'),
    ] = ""


class _GoFlow2(Struct):
    """Fields that stand beside these in Protobuf, for GoFlow2's consumers."""

    sequence_num: Annotated[U32, Meta(description="seq modulo 2^32")]


_FOLLOWING: Final = {
    "host_id": ("host",),
    "if_name": ("in_if", "out_if"),
    "flow_direction": ("community_id",),
}


@lru_cache
def fields(record: type[Struct]) -> tuple[Field, ...]:
    """Fields of a record in their order on the wire: MessagePack's.

    The parts of a record (``Loss``, ``StageCounts``) are numbered from 1.
    """
    is_part = not record.__struct_config__.array_like
    return tuple(
        _field(info, position if is_part else _NUMBERS[info.name])
        for position, info in enumerate(msgspec.structs.fields(record), 1)
    )


@lru_cache
def named_fields(record: type[Struct]) -> tuple[Field, ...]:
    """Fields of a record as JSON and Avro have them, in their order."""
    if record is not FlowRecord:
        return fields(record)
    named = _by_name(_Named)
    found: list[Field] = []
    for field in fields(record):
        found += [field, *(named[name] for name in _FOLLOWING.get(field.name, ()))]
    return tuple(found)


@lru_cache
def protobuf_fields(record: type[Struct]) -> tuple[Field, ...]:
    """Fields of a record as Protobuf has them, in the order of their numbers."""
    found = list(named_fields(record))
    if record is FlowRecord:
        found += _by_name(_GoFlow2).values()
    return tuple(sorted(found, key=lambda field: field.number))


def _by_name(extras: type[Struct]) -> dict[str, Field]:
    return {
        info.name: _field(info, _NUMBERS[info.name]) for info in msgspec.structs.fields(extras)
    }


def _field(info: msgspec.structs.FieldInfo, number: int) -> Field:
    inner, *metas = get_args(info.type) if get_origin(info.type) is Annotated else [info.type]
    part: type[Struct] | None = None
    kinds = [meta.extra["kind"] for meta in metas if meta.extra]
    if get_origin(inner) is dict:
        kind, part = Kind.MAP, get_args(inner)[1]
    elif inner is bool:
        kind = Kind.BOOL
    elif isinstance(inner, type) and issubclass(inner, Struct):
        kind, part = Kind.PART, inner
    elif inner is str or get_origin(inner) is Literal:
        kind = Kind.TEXT
    else:
        (kind,) = kinds
    descriptions = [meta.description for meta in metas if meta.description]
    return Field(info.name, kind, number, "".join(descriptions), info.type, info.default, part)

"""What the records consist of, read from their Structs: for schemas and binary encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from flowstream.records.fields import Kind

# GoFlow2's numbers (pb/flow.proto) where it has the field, else numbers from 1000.
# A number belongs to its name for ever, in every record.
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
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    ``number`` is protobuf's. ``default`` is ``msgspec.NODEFAULT`` when every
    value has the field. ``record`` is the Struct of a RECORD and of the values
    of a MAP, whose keys are text.
    """

    name: str
    kind: Kind
    number: int
    description: str
    default: Any = NODEFAULT
    record: type[Struct] | None = None


@lru_cache
def fields(record: type[Struct]) -> tuple[Field, ...]:
    """Fields of a record in their order, which is that of MessagePack and Avro.

    The parts of a record (``Loss``, ``StageCounts``) are numbered from 1.
    """
    is_part = not record.__struct_config__.array_like
    return tuple(
        _field(info, position if is_part else _NUMBERS[info.name])
        for position, info in enumerate(msgspec.structs.fields(record), 1)
    )


def _field(info: msgspec.structs.FieldInfo, number: int) -> Field:
    inner, *metas = get_args(info.type) if get_origin(info.type) is Annotated else [info.type]
    part: type[Struct] | None = None
    kinds = [meta.extra["kind"] for meta in metas if meta.extra]
    if get_origin(inner) is dict:
        kind, part = Kind.MAP, get_args(inner)[1]
    elif isinstance(inner, type) and issubclass(inner, Struct):
        kind, part = Kind.RECORD, inner
    elif inner is bool:
        kind = Kind.BOOL
    elif inner is str or get_origin(inner) is Literal:
        kind = Kind.TEXT
    else:
        (kind,) = kinds
    descriptions = [meta.description for meta in metas if meta.description]
    return Field(info.name, kind, number, "".join(descriptions), info.default, part)

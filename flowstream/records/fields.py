"""Field types shared by the records: widths as on the wire, bounds as in the JSON Schema.

A type that stands for one field of several records has its description too.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from msgspec import Meta


class Kind(enum.StrEnum):
    """Kind of a field, for every schema and encoder; stands in ``Meta.extra``."""

    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"
    TEXT = "text"
    ADDRESS = "address"
    HOST_ID = "host_id"
    MAC = "mac"
    MAP = "map"
    PART = "part"


def _kind(kind: Kind, **limits: Any) -> Meta:
    return Meta(extra={"kind": kind}, **limits)


U8 = Annotated[int, _kind(Kind.U8, ge=0, le=0xFF)]
U16 = Annotated[int, _kind(Kind.U16, ge=0, le=0xFFFF)]
U32 = Annotated[int, _kind(Kind.U32, ge=0, le=0xFFFF_FFFF)]
# Values stay below 2**63, so that readers with signed integers can hold them.
U64 = Annotated[int, _kind(Kind.U64, ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]

Version = Annotated[
    int,
    _kind(Kind.U8, ge=1, le=0xFF, description="1; a field is only ever added at the end"),
]
AgentEpoch = Annotated[
    U64,
    Meta(
        description="Unix ns at which this agent run began, a multiple of 1,024: "
        "with host_id it names the run"
    ),
]
FlowType = Annotated[int, _kind(Kind.U8, ge=1, le=2)]
CountersType = Annotated[int, _kind(Kind.U8, ge=3, le=3)]
Address = Annotated[bytes, _kind(Kind.ADDRESS, min_length=16, max_length=16)]
SamplerAddress = Annotated[Address, Meta(description="the agent's own address (IPFIX 130, 131)")]
HostId = Annotated[
    bytes,
    _kind(
        Kind.HOST_ID,
        min_length=16,
        max_length=16,
        description="id of the host, derived from its machine id (machine-id(5))",
    ),
]
Mac = Annotated[bytes, _kind(Kind.MAC, min_length=6, max_length=6)]
PrefixLength = Annotated[int, _kind(Kind.U8, ge=0, le=128)]
Direction = Annotated[
    int, _kind(Kind.U8, ge=0, le=1, description="0 ingress (received), 1 egress (sent) (IPFIX 61)")
]
IfIndex = Annotated[
    U32,
    Meta(
        description="index of the interface in its network namespace; where a run observes "
        "several, plus 2^24 times the number of the namespace"
    ),
]
IfName = Annotated[
    str, _kind(Kind.TEXT, max_length=15, description="name of the interface (IPFIX 82)")
]

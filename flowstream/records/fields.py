"""Field types shared by the records: widths as on the wire, bounds as in the JSON Schema."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
# msgspec bounds end at 2**63 - 1: MessagePack cannot carry more than 64 bits anyway.
U64 = Annotated[int, Meta(ge=0, extra_json_schema={"maximum": 0xFFFF_FFFF_FFFF_FFFF})]

Version = Annotated[int, Meta(ge=1, le=0xFF)]
Address = Annotated[bytes, Meta(min_length=16, max_length=16)]
HostId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Mac = Annotated[bytes, Meta(min_length=6, max_length=6)]
IfName = Annotated[str, Meta(max_length=15)]

"""Filters: what the kernel runs accepts the packets that libpcap accepts.

The input is a frame behind a program of classic BPF whose number of instructions is in the
first octet: as it is, which is refused or runs, as the nearest valid one, and as the choices
that make an expression.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from packets.build import ether, ip4, ip6, tcp, udp
from support.filter_expressions import Expressions
from support.filters import Function, Tag, compare, encode, program_of

from flowstream.errors import UsageError
from flowstream.filtering import libpcap
from flowstream.filtering.compiling import compile_here

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_FRAMES: Final = (
    ether(0x0800, ip4(6, tcp(0x12, b"GET / HTTP/1.1"), options=b"\1\1\1\0")),
    ether(0x86DD, ip6(17, udp(b"abc"))),
)
_EXPRESSIONS: Final = (
    "port 443 and not net 10.0.0.0/8",
    "vlan and tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "ip[2:2] % (ip[8] - 60) = 1 or len / ip[1] < 4 or 1 << ip[9] = 0",
    "ip6 and udp portrange 1-1024 or ether[len - 2] = 98",
)


def seeds() -> Sequence[bytes]:
    """Return programs of expressions, and a few octets."""
    compiled = [libpcap.compiled(each, libpcap.ETHERNET) for each in _EXPRESSIONS]
    return [
        *(bytes([len(each) // 8]) + each + _FRAMES[0] for each in compiled),
        *(bytes([n]) + bytes(range(8 * n)) + _FRAMES[n % 2] for n in (1, 7, 29)),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a field of an instruction."""
    changed = bytearray(data.ljust(17, b"\0"))
    at = 1 + 8 * rng.randrange(max(1, changed[0]))
    if at + 8 > len(changed):
        return bytes([rng.randrange(64)]) + rng.randbytes(80)
    part, value = rng.choice(
        (("=H", rng.randrange(256)), ("=B", rng.randrange(256)), ("=I", rng.getrandbits(32)))
    )
    struct.pack_into(part, changed, at + {"=H": 0, "=B": rng.choice((2, 3)), "=I": 4}[part], value)
    return bytes(changed)


def target(data: bytes) -> None:
    """Run the program as it is, if it is valid, and the nearest valid one."""
    count = data[0] if data else 0
    octets, frame = data[1 : 1 + 8 * count], data[1 + 8 * count :].ljust(14, b"\0")[:1_500]
    try:
        Function(octets).close()
    except UsageError as err:
        assert str(err).startswith("filter: ")
    tag = Tag(0x8100, count * 257)
    compare(encode(program_of(octets)), [frame, *_FRAMES], (0, 3), tag)
    try:
        made = compile_here(Expressions(data).made())
    except UsageError:
        return
    compare(made.ethernet, [frame, *_FRAMES], (0, 3), tag)

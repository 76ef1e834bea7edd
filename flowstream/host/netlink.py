"""Messages of netlink(7) and their attributes: a pure codec.

Numbers: linux/netlink.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300

_NLM_F_REQUEST: Final = 0x1
_NESTED: Final = 0x8000
_TYPE: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")


class DamagedMessageError(ValueError):
    """The octets are no whole messages."""


class Message(NamedTuple):
    """A netlink message; ``body`` refers to the octets that it was read from."""

    kind: int
    flags: int
    seq: int
    body: memoryview


def request(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """Return a request of a kind, whose answer has the same ``seq``."""
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, seq, 0) + body


def attribute(kind: int, value: bytes | int, *, nested: bool = False) -> bytes:
    """Return an attribute: octets, attributes if ``nested``, or a number of 32 bits."""
    octets = _NUMBER.pack(value) if isinstance(value, int) else value
    kind |= _NESTED if nested else 0
    padding = bytes(_aligned(len(octets)) - len(octets))
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(octets), kind) + octets + padding


def messages(octets: bytes) -> Iterator[Message]:
    """Split what was received; raises ``DamagedMessageError``."""
    view = memoryview(octets)
    while view:
        if len(view) < _HEADER.size:
            raise DamagedMessageError("a header is cut off")
        length, kind, flags, seq, _ = _HEADER.unpack_from(view)
        if not _HEADER.size <= length <= len(view):
            raise DamagedMessageError(f"a message of {length} octets in {len(view)}")
        yield Message(kind, flags, seq, view[_HEADER.size : length])
        view = view[_aligned(length) :]


def error_of(message: Message) -> int:
    """Return the error number that ends a request, 0 when there is none."""
    if message.kind not in (NLMSG_ERROR, NLMSG_DONE) or len(message.body) < _ERROR.size:
        return 0
    return -int(_ERROR.unpack_from(message.body)[0])


def attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Split what follows the body's fixed part; raises ``DamagedMessageError``."""
    while view:
        if len(view) < _ATTRIBUTE.size:
            raise DamagedMessageError("an attribute is cut off")
        length, kind = _ATTRIBUTE.unpack_from(view)
        if not _ATTRIBUTE.size <= length <= len(view):
            raise DamagedMessageError(f"an attribute of {length} octets in {len(view)}")
        yield kind & _TYPE, view[_ATTRIBUTE.size : length]
        view = view[_aligned(length) :]


def number(octets: memoryview | None) -> int | None:
    """Return an attribute that is an unsigned number of 32 bits; None without it."""
    if octets is None:
        return None
    if len(octets) != _NUMBER.size:
        raise DamagedMessageError(f"a number of {len(octets)} octets")
    return int(_NUMBER.unpack(octets)[0])


def text(octets: memoryview | None) -> bytes:
    """Return an attribute that is a text without its NUL, or nothing."""
    return bytes(octets or b"").partition(b"\0")[0]


def _aligned(length: int) -> int:
    """Round up to the boundary of 4 octets on which the next part begins."""
    return length + 3 & ~3

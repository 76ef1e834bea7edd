"""Capture files made octet by octet from the formats' documents."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

ETHERNET, RAW, COOKED, COOKED2 = 1, 101, 113, 276
SECTION, INTERFACE, OBSOLETE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
MICROSECONDS, NANOSECONDS, KUZNETZOV = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
FCS_PRESENT = 1 << 26


class Packet(NamedTuple):
    """A frame, its Unix time in ns, and its length on the wire when more than captured."""

    time_ns: int
    frame: bytes
    length: int | None = None

    @property
    def wire_length(self) -> int:
        return len(self.frame) if self.length is None else self.length


def pcap_header(
    magic: int = MICROSECONDS,
    *,
    order: str = "<",
    link: int = ETHERNET,
    version: tuple[int, int] = (2, 4),
    snap: int = 262_144,
) -> bytes:
    """The header of a pcap file."""
    return struct.pack(order + "IHHiIII", magic, *version, 0, 0, snap, link)


def pcap(
    packets: Iterable[Packet], *, order: str = "<", nanoseconds: bool = False, link: int = ETHERNET
) -> bytes:
    """A pcap file."""
    magic, unit = (NANOSECONDS, 1) if nanoseconds else (MICROSECONDS, 1000)
    parts = [pcap_header(magic, order=order, link=link)]
    for packet in packets:
        seconds, rest = divmod(packet.time_ns, 10**9)
        sizes = len(packet.frame), packet.wire_length
        parts.append(struct.pack(order + "IIII", seconds, rest // unit, *sizes) + packet.frame)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    """A section header: what follows is in this byte order."""
    return block(SECTION, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """An option of a block."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(
    link: int = ETHERNET, options: bytes = b"", order: str = "<", snap: int = 0
) -> bytes:
    """An interface description; ``options`` without their end."""
    ending = options and options + option(0, b"", order)
    return block(INTERFACE, struct.pack(order + "HHI", link, 0, snap) + ending, order)


def enhanced(
    packet: Packet,
    number: int = 0,
    ticks: int | None = None,
    order: str = "<",
    options: bytes = b"",
) -> bytes:
    """A packet of interface ``number``, ``ticks`` (microseconds unless given) after 1970."""
    ticks = packet.time_ns // 1000 if ticks is None else ticks
    sizes = len(packet.frame), packet.wire_length
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, *sizes)
    padding = bytes(-len(packet.frame) % 4)
    return block(ENHANCED, head + packet.frame + (options and padding + options), order)


def obsolete(packet: Packet, number: int = 0, drops: int = 0xFFFF, order: str = "<") -> bytes:
    """The obsolete form of a packet, with the number of packets dropped before it."""
    ticks = packet.time_ns // 1000
    head = struct.pack(order + "HHII", number, drops, ticks >> 32, ticks & 0xFFFFFFFF)
    sizes = struct.pack(order + "II", len(packet.frame), packet.wire_length)
    return block(OBSOLETE, head + sizes + packet.frame, order)


def pcapng(packets: Iterable[Packet], *, order: str = "<", link: int = ETHERNET) -> bytes:
    """A pcapng file of one section and interface, microseconds."""
    parts = [section(order), interface(link, order=order)]
    return b"".join([*parts, *(enhanced(packet, order=order) for packet in packets)])

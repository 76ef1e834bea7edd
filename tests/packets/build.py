"""Frames from their parts, octet by octet: every field may lie."""

from __future__ import annotations

import ipaddress
import struct

DST_MAC = bytes.fromhex("020000000002")
SRC_MAC = bytes.fromhex("020000000001")
V4_SRC, V4_DST = "10.0.0.1", "198.18.0.1"
V6_SRC, V6_DST = "2001:db8::1", "2001:db8::2"

EXTENSIONS = {
    "hop_by_hop": 0,
    "routing": 43,
    "fragment": 44,
    "ah": 51,
    "destination": 60,
    "mobility": 135,
    "hip": 139,
    "shim6": 140,
}

# Uneven numbers, so that a byte read from the wrong place shows.
SRC_PORT, DST_PORT = 0x1F93, 0xC351
TCP_FLAGS = 0xD2


def ether(
    etype: int, payload: bytes = b"", *, dst: bytes = DST_MAC, src: bytes = SRC_MAC
) -> bytes:
    """Return an Ethernet frame without FCS and without padding."""
    return dst + src + struct.pack("!H", etype) + payload


def tag(vlan_id: int, etype: int, payload: bytes = b"", *, prio: int = 0, dei: int = 0) -> bytes:
    """Return what follows 0x8100 or 0x88a8: the tag and its payload."""
    return struct.pack("!HH", prio << 13 | dei << 12 | vlan_id, etype) + payload


def ip4(
    proto: int,
    payload: bytes = b"",
    *,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
    tos: int = 0xB9,
    ttl: int = 61,
    fragment: int = 0,
    src: str = V4_SRC,
    dst: str = V4_DST,
) -> bytes:
    """Return an IPv4 packet; ``fragment`` is the 16 bits of flags and offset."""
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    total = 20 + len(options) + len(payload) if total is None else total
    fixed = struct.pack(
        "!BBHHHBBH4s4s",
        *(version << 4 | ihl, tos, total & 0xFFFF, 0x3039, fragment, ttl, proto, 0xBEEF),
        *(ipaddress.IPv4Address(src).packed, ipaddress.IPv4Address(dst).packed),
    )
    return fixed + options + payload


def ip6(
    next_header: int,
    payload: bytes = b"",
    *,
    version: int = 6,
    length: int | None = None,
    tclass: int = 0xB9,
    flow_label: int = 0xABCDE,
    hops: int = 61,
    src: str = V6_SRC,
    dst: str = V6_DST,
) -> bytes:
    """Return an IPv6 packet; the payload may begin with extension headers."""
    length = len(payload) & 0xFFFF if length is None else length
    fixed = struct.pack(
        "!IHBB", version << 28 | tclass << 20 | flow_label, length, next_header, hops
    )
    return fixed + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + payload


def extension(
    next_header: int, payload: bytes = b"", *, units: int = 0, fill: int = 0xEE
) -> bytes:
    """Return an extension header of 8 * (units + 1) octets and what follows it."""
    return bytes([next_header, units]) + bytes([fill]) * (6 + 8 * units) + payload


def ah(next_header: int, payload: bytes = b"", *, units: int = 4) -> bytes:
    """Return an authentication header of 4 * (units + 2) octets and what follows it."""
    body = bytes([next_header, units]) + b"\xaa" * (4 * (units + 2) - 2)
    return body + payload


def fragment6(next_header: int, payload: bytes = b"", *, offset: int = 0, more: int = 0) -> bytes:
    """Return a fragment header (offset in units of 8 octets) and what follows it.

    The reserved octet looks like a length of 255 units: it must not be read as one.
    """
    return struct.pack("!BBHI", next_header, 0xFF, offset << 3 | more, 0xDEADBEEF) + payload


def tcp(flags: int = TCP_FLAGS, payload: bytes = b"") -> bytes:
    """Return a TCP header and its payload."""
    header = struct.pack("!HHIIBBHHH", SRC_PORT, DST_PORT, 1, 2, 0x50, flags, 512, 0, 0)
    return header + payload


def udp(payload: bytes = b"\x5a" * 5) -> bytes:
    """Return a UDP (or UDP-Lite) datagram."""
    return struct.pack("!HHHH", SRC_PORT, DST_PORT, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int, payload: bytes = b"\x5a" * 11) -> bytes:
    """Return an ICMP or ICMPv6 message."""
    return bytes([kind, code]) + b"\0" * 6 + payload


def v4(proto: int, payload: bytes = b"", **fields: object) -> bytes:
    """Return an untagged frame with an IPv4 packet; ``fields`` as for ``ip4``."""
    return ether(0x0800, ip4(proto, payload, **fields))  # type: ignore[arg-type]


def v6(next_header: int, payload: bytes = b"", **fields: object) -> bytes:
    """Return an untagged frame with an IPv6 packet; ``fields`` as for ``ip6``."""
    return ether(0x86DD, ip6(next_header, payload, **fields))  # type: ignore[arg-type]


def header(kind: int, next_header: int, payload: bytes) -> bytes:
    """Return a well-formed extension header of ``kind`` in front of ``payload``."""
    if kind == EXTENSIONS["fragment"]:
        return fragment6(next_header, payload)
    if kind == EXTENSIONS["ah"]:
        return ah(next_header, payload)
    return extension(next_header, payload, units=1)


def chain(kinds: list[int], proto: int, payload: bytes) -> bytes:
    """Return an IPv6 frame with one extension header for each of ``kinds``."""
    following = proto
    for kind in reversed(kinds):
        payload = header(kind, following, payload)
        following = kind
    return v6(following, payload)


def long_chain(count: int, units: int) -> bytes:
    """Return a frame with ``count`` extension headers of 8 * (units + 1) octets."""
    payload, following = tcp(), 6
    for _ in range(count):
        payload, following = extension(following, payload, units=units), 60
    return v6(following, payload)

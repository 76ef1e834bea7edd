"""Frames that a device still has to cut into segments, as a guest hands them over.

Each follows a struct virtio_net_hdr (linux/virtio_net.h), which the kernel does not trust:
it does not know how many segments there will be.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from packets.build import DST_PORT, SRC_PORT, ether, ip4, ip6, tag, tcp

NOBODY: Final = bytes.fromhex("0200000000ee")
"""A MAC address that no host has: its packets get no answer."""
SIZE: Final = 1_000
"""Octets of payload of each segment but the last."""
NOT_CUT: Final = bytes(10)
"""struct virtio_net_hdr of a frame that is whole."""

_NEEDS_CSUM = 1
_TCPV4, _TCPV6, _UDP, _ECN = 1, 4, 5, 0x80
_ALERT = b"\x94\x04\0\0" * 3
_DESTINATION = 60


class Segments(NamedTuple):
    """A frame behind its header, and the octets of headers that each of its segments has."""

    frame: bytes
    headers: int

    @property
    def packets(self) -> int:
        """How many segments there are."""
        return -(-(len(self.frame) - len(NOT_CUT) - self.headers) // SIZE)


def frames(source: bytes) -> dict[str, Segments]:
    """Return the frames of a host with this MAC address.

    Each is a flow of its own; the last octet of the IP addresses is that of ``source``.
    """
    made = {
        "v4": _tcp4(source, 1, 10_001),
        "v4 full": _tcp4(source, 2, 10_000),
        "v4 two": _tcp4(source, 3, 1_001),
        "v4 every flag": _tcp4(source, 4, 5_003, flags=0xFF, kind=_TCPV4 | _ECN),
        "v4 options": _tcp4(source, 5, 5_003, options=_ALERT),
        "v4 tagged": _tcp4(source, 6, 5_003, tags=(0x123,)),
        "v4 tagged twice": _tcp4(source, 7, 5_003, tags=(0x123, 0x456)),
        "v6": _tcp6(source, 1, 10_001),
        "v6 extension": _tcp6(source, 2, 5_003, units=2),
        "v6 tagged": _tcp6(source, 3, 5_003, tags=(0x123,)),
    }
    for version in (4, 6):
        for tags in ((), (0x123,)):
            name = f"v{version} datagrams{' tagged' * len(tags)}"
            made[name] = _udp(source, version, 8 + len(tags), tags)
    return made


def _tcp4(
    source: bytes,
    host: int,
    octets: int,
    *,
    flags: int = 0x18,
    kind: int = _TCPV4,
    options: bytes = b"",
    tags: tuple[int, ...] = (),
) -> Segments:
    packet = ip4(
        6,
        tcp(flags, bytes(octets)),
        options=options,
        src=f"10.0.0.{source[-1]}",
        dst=f"198.18.0.{host}",
    )
    return _segments(kind, source, tags, 0x0800, packet, 20, octets, 16)


def _tcp6(
    source: bytes, host: int, octets: int, *, units: int = -1, tags: tuple[int, ...] = ()
) -> Segments:
    payload, first = tcp(0x18, bytes(octets)), 6
    if units >= 0:
        # PadN over all of it (RFC 8200, 4.2).
        pad = struct.pack("!BB", 1, 8 * units + 4) + bytes(8 * units + 4)
        payload, first = bytes([6, units]) + pad + payload, _DESTINATION
    packet = ip6(first, payload, src=f"2001:db8:1::{source[-1]}", dst=f"2001:db8::{host}")
    return _segments(_TCPV6, source, tags, 0x86DD, packet, 20, octets, 16)


def _udp(source: bytes, version: int, host: int, tags: tuple[int, ...]) -> Segments:
    octets = 10_001
    payload = struct.pack("!HHHH", SRC_PORT, DST_PORT, 8 + octets, 0) + bytes(octets)
    if version == 4:
        packet = ip4(17, payload, src=f"10.0.0.{source[-1]}", dst=f"198.18.0.{host}")
    else:
        packet = ip6(17, payload, src=f"2001:db8:1::{source[-1]}", dst=f"2001:db8::{host}")
    etype = 0x0800 if version == 4 else 0x86DD
    return _segments(_UDP, source, tags, etype, packet, 8, octets, 6)


def _segments(
    kind: int,
    source: bytes,
    tags: tuple[int, ...],
    etype: int,
    packet: bytes,
    transport: int,
    octets: int,
    checksum_at: int,
) -> Segments:
    """``transport``: octets of the transport header; ``octets``: of its payload."""
    for vlan_id in reversed(tags):
        packet, etype = tag(vlan_id, etype, packet), 0x8100
    frame = ether(etype, packet, dst=NOBODY, src=source)
    start = len(frame) - octets - transport
    header = struct.pack("=BBHHHH", _NEEDS_CSUM, kind, start + transport, SIZE, start, checksum_at)
    return Segments(header + frame, start + transport)

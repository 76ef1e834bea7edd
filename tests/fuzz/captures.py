"""Captures: packets up to the first damage."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from flowstream.errors import SourceError
from flowstream.pcap.reader import CaptureFile
from fuzz.files import scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE: Final = scratch() / "capture"
_PACKET: Final = (
    bytes(12) + b"\x08\x00" + bytes.fromhex("45000014000000004011000001020304") + b"\5\6\7\b"
)
_LINK_TYPES: Final = (1, 101, 113, 276)
_NETWORK_HEADER: Final = 20
_KUZNETZOV: Final = 0xA1B2CD34


def seeds() -> Sequence[bytes]:
    """Return a file of each form, byte order, version and link type."""
    found = [
        _pcap(order, magic, link_type, minor)
        for order in "<>"
        for magic in (0xA1B2C3D4, 0xA1B23C4D, _KUZNETZOV)
        for link_type, minor in ((1, 4), (101, 4), (113, 4), (276, 4), (1, 3), (0x24000001, 4))
    ]
    return found + [_pcapng(order, link_type) for order in "<>" for link_type in _LINK_TYPES]


def _pcap(order: str, magic: int, link_type: int, minor: int) -> bytes:
    header = struct.pack(order + "IHHiIII", magic, 2, minor, 0, 0, 65_535, link_type)
    packet = struct.pack(order + "4I", 1_700_000_000, 7, len(_PACKET), 1_009)
    if magic == _KUZNETZOV:
        packet += struct.pack(order + "IHBx", 3, 0x0800, 0)
    return header + 2 * (packet + _PACKET)


def _pcapng(order: str, link_type: int) -> bytes:
    def block(kind: int, content: bytes) -> bytes:
        content += bytes(-len(content) % 4)
        total = struct.pack(order + "I", len(content) + 12)
        return struct.pack(order + "I", kind) + total + content + total

    def option(code: int, form: str, value: int) -> bytes:
        content = struct.pack(order + form, value)
        return struct.pack(order + "HH", code, len(content)) + content + bytes(-len(content) % 4)

    end = struct.pack(order + "HH", 0, 0)
    described = option(9, "B", 9) + option(13, "B", 4) + option(14, "q", 3_600) + end
    told = option(2, "I", 4 << 5) + option(4, "Q", 7) + end
    ticks = 1_700_000_000 * 10**9
    times = (ticks >> 32, ticks & 0xFFFFFFFF, len(_PACKET), 1_009)
    padding = bytes(-len(_PACKET) % 4)
    return b"".join(
        [
            block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
            block(1, struct.pack(order + "HHI", link_type, 0, 65_535) + described),
            block(5, bytes(8)),  # statistics
            block(6, struct.pack(order + "5I", 0, *times) + _PACKET + padding + told),
            block(2, struct.pack(order + "HH4I", 0, 3, *times) + _PACKET),
            block(3, struct.pack(order + "I", len(_PACKET)) + _PACKET),
            block(0xBAD, bytes(4)),
            block(0x7FFFFFFF, bytes(4)),  # of no known kind
        ]
    )


def target(data: bytes) -> None:
    """Read all packets; they fit into what the kernel program takes."""
    _FILE.write_bytes(data)
    octets = packets = 0
    warnings: list[str] = []
    try:
        with CaptureFile(_FILE) as file:
            for time_ns, length, packet in file.packets():
                assert 0 <= time_ns < 2**63
                assert 0 <= length < 2**32
                octets += len(packet)
                packets += 1
                assert 0 <= file.position <= file.size
            warnings = file.warnings()
    except SourceError as err:
        warnings = [str(err)]
    assert all(str(_FILE) in line and line.isprintable() for line in warnings)
    # Other link types get an Ethernet header each.
    assert octets <= len(data) + packets * _NETWORK_HEADER

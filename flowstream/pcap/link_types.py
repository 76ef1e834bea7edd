"""Makes Ethernet frames of packets of any supported link type.

Numbers: https://www.tcpdump.org/linktypes.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.layouts.constants import EtherType

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.kernel.packets import Packet

    Framer = Callable[[int, int, memoryview], Packet]
    """Packet as a frame; takes time, length on the wire and octets."""

ETHERNET: Final = 1
ETHERNET_HEADER: Final = 14
SUPPORTED: Final = "Ethernet (1), raw IP (101, 228, 229), Linux cooked (113, 276)"

# 12 and 14: what some systems write for 101.
_RAW: Final = frozenset((12, 14, 101, 228, 229))
_COOKED: Final = 113
_COOKED2: Final = 276
_NO_ADDRESSES: Final = bytes(12)
_BY_VERSION: Final = {4: EtherType.IPV4.to_bytes(2), 6: EtherType.IPV6.to_bytes(2)}


def framer_of(link_type: int) -> Framer | None:
    """Return the function that puts an Ethernet header before packets; None when unsupported."""
    if link_type == ETHERNET:
        return _from_ethernet
    if link_type in _RAW:
        return _from_raw
    if link_type == _COOKED:
        return _from_cooked(14, 16)
    if link_type == _COOKED2:
        return _from_cooked(0, 20)
    return None


def _from_ethernet(time_ns: int, length: int, packet: memoryview) -> Packet:
    return time_ns, length, packet


def _from_raw(time_ns: int, length: int, packet: memoryview) -> Packet:
    # With any other version the packet counts as non-IP.
    etype = _BY_VERSION.get(packet[0] >> 4 if packet else 0, b"\0\0")
    return time_ns, length + ETHERNET_HEADER, memoryview(_NO_ADDRESSES + etype + packet)


def _from_cooked(protocol_at: int, header: int) -> Framer:
    def framed(time_ns: int, length: int, packet: memoryview) -> Packet:
        etype = bytes(packet[protocol_at : protocol_at + 2])
        frame = _NO_ADDRESSES + etype + packet[header:]
        return time_ns, max(length - header, 0) + ETHERNET_HEADER, memoryview(frame)

    return framed

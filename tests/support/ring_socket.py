"""Packets whose headers are not in one piece: sent from a ring that user space fills.

The kernel makes a packet of it whose first 14 octets alone are its own; everything behind
the link-layer header stays in the ring's pages (tpacket_fill_skb(), net/packet/af_packet.c).
"""

from __future__ import annotations

import mmap
import socket
import struct
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.net import Interface

# linux/if_packet.h
_SOL_PACKET: Final = 263
_VERSION, _TX_RING = 10, 13
_TPACKET_V2: Final = 1
_SEND_REQUEST: Final = 1
_DATA_AT: Final = 32
"""Octets of struct tpacket2_hdr, aligned."""
_SLOT: Final = 1 << 17
_SLOTS: Final = 16


class RingSocket(Closing):
    """Sends frames by a device, each of 15 to 65,535 octets."""

    def __init__(self, device: Interface) -> None:
        with device.namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
            shape = struct.pack("=IIII", _SLOT, _SLOTS, _SLOT, _SLOTS)
            self._socket.setsockopt(_SOL_PACKET, _TX_RING, shape)
            self._socket.bind((device.name, 0))
        self._ring = mmap.mmap(self._socket.fileno(), _SLOT * _SLOTS)
        self._next = 0

    def send(self, frames: Iterable[bytes]) -> None:
        """Send them in order; each has been sent when this returns. OSError on refusal."""
        for frame in frames:
            at = _SLOT * (self._next % _SLOTS)
            self._next += 1
            self._ring[at + _DATA_AT : at + _DATA_AT + len(frame)] = frame
            struct.pack_into("=II", self._ring, at, _SEND_REQUEST, len(frame))
            # It waits until the packet is on its way and its pages are free again.
            self._socket.send(b"")

    def close(self) -> None:
        """Close socket and ring; harmless twice."""
        self._ring.close()
        self._socket.close()

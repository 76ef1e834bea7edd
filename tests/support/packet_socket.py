"""Packets as a device sends and receives them: a capture without a program that could be late."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing

if TYPE_CHECKING:
    from support.net import Interface

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h
_SOL_PACKET: Final = 263
_STATISTICS, _AUXDATA, _VNET_HDR, _QDISC_BYPASS = 6, 8, 15, 20
_VLAN_VALID: Final = 1 << 4
_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33
_ROOM: Final = 1 << 29
LARGEST: Final = 1 << 18


class Capture(Closing):
    """What goes through a device from now on, kept in the socket's own memory."""

    def __init__(self, device: Interface) -> None:
        with device.namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
            self._socket.bind((device.name, _ETH_P_ALL))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        """Take what has come; a tag that the kernel keeps beside a packet is put back into it.

        AssertionError when a packet found no room.
        """
        found = []
        while True:
            try:
                frame, control, flags, _ = self._socket.recvmsg(LARGEST, 64)
            except BlockingIOError:
                break
            assert not flags & socket.MSG_TRUNC
            found.append(_with_tag(frame, control[0][2]))
        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        assert dropped == 0
        return found

    def close(self) -> None:
        """Stop; harmless twice."""
        self._socket.close()


class Sender(Closing):
    """Sends frames by a device; with ``vnet_hdr`` each follows a struct virtio_net_hdr."""

    def __init__(self, device: Interface, *, vnet_hdr: bool = False) -> None:
        with device.namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(_SOL_PACKET, _VNET_HDR, int(vnet_hdr))
            self._socket.bind((device.name, 0))

    def bypass_queue(self, bypass: bool) -> None:
        """Whether packets go to the driver at once, past the queue and programs before it."""
        self._socket.setsockopt(_SOL_PACKET, _QDISC_BYPASS, int(bypass))

    def send(self, frame: bytes) -> None:
        """Send a frame; OSError when the kernel refuses it."""
        self._socket.send(frame)

    def close(self) -> None:
        """Release the socket; harmless twice."""
        self._socket.close()


def _with_tag(frame: bytes, auxdata: bytes) -> bytes:
    """``auxdata`` is a struct tpacket_auxdata."""
    status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", auxdata)
    return (
        frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:] if status & _VLAN_VALID else frame
    )

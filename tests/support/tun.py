"""Devices whose other side is a test: of IP packets (tun) or of frames (tap)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from support.net import LARGEST_MTU, interface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Interface, Namespace

# linux/if_tun.h
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
_IFF_TUN: Final = 0x0001
_IFF_TAP: Final = 0x0002
_TUNSETIFF: Final = 0x400454CA
_ETHERNET_MTU: Final = 1508
"""With room for two VLAN tags."""
_LARGEST_PACKET: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Tun:
    """A tun or tap device, and the descriptor of its other side."""

    interface: Interface
    fd: int

    def receive(self, packet: bytes) -> None:
        """Let the device receive a packet; OSError when the driver refuses it."""
        written = os.write(self.fd, packet)
        assert written == len(packet)

    def sent(self) -> list[bytes]:
        """Take the packets that the device has sent."""
        packets = []
        os.set_blocking(self.fd, False)
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(self.fd, _LARGEST_PACKET):
                packets.append(packet)
        os.set_blocking(self.fd, True)
        return packets


def tun_device(
    place: Namespace, name: str = "tun0", flags: int = IFF_NO_PI
) -> contextlib.AbstractContextManager[Tun]:
    """Create a tun device that is up; it vanishes with the block.

    Without IFF_NO_PI each packet follows four octets: flags and EtherType. With
    IFF_VNET_HDR it follows a struct virtio_net_hdr of ten octets.
    """
    return _device(place, name, _IFF_TUN | flags, LARGEST_MTU)


def tap_device(place: Namespace, name: str = "tap0") -> contextlib.AbstractContextManager[Tun]:
    """Create a tap device that is up, as a virtual machine has it; it vanishes with the block.

    Each frame follows a struct virtio_net_hdr of ten octets.
    """
    return _device(place, name, _IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, _ETHERNET_MTU)


@contextlib.contextmanager
def _device(place: Namespace, name: str, flags: int, mtu: int) -> Iterator[Tun]:
    with place.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
        place.run("ip", "link", "set", name, "mtu", str(mtu), "up")
        yield Tun(interface(place, name), fd)
    finally:
        os.close(fd)

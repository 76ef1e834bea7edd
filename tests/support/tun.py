"""Devices of IP packets without a link-layer header (tun), fed by a test."""

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
_TUNSETIFF: Final = 0x400454CA


@dataclass(frozen=True, slots=True)
class Tun:
    """A tun device, and the descriptor of its other side."""

    interface: Interface
    fd: int

    def receive(self, packet: bytes) -> None:
        """Let the device receive a packet; OSError when the driver refuses it."""
        written = os.write(self.fd, packet)
        assert written == len(packet)


@contextlib.contextmanager
def tun_device(place: Namespace, name: str = "tun0", flags: int = IFF_NO_PI) -> Iterator[Tun]:
    """Create a tun device that is up; it vanishes with the block.

    Without IFF_NO_PI each packet follows four octets: flags and EtherType. With
    IFF_VNET_HDR it follows a struct virtio_net_hdr of ten octets.
    """
    with place.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), _IFF_TUN | flags))
        place.run("ip", "link", "set", name, "mtu", str(LARGEST_MTU), "up")
        yield Tun(interface(place, name), fd)
    finally:
        os.close(fd)

"""Two hosts, of which one is observed, and a wire between them that carries packets as sent.

    observed host                 middle                      far host
    [ near ]----------[ inner | bridge | outer ]----------[ far ]
    offloads on                          offloads off: segments are cut here

What the observed host hands to its device as one segment of 64 KB reaches the far host as
single packets; what the far host sends as single packets, the device of the observed host
joins (GRO). Nobody else sends: no ARP, no neighbour discovery, no multicast. Every device
has a queue of its own (NAPI): the CPUs' common ones may overflow by traffic of others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flowstream.host import netlink
from flowstream.host.netlink import NLM_F_ACK
from flowstream.host.route_socket import RouteSocket
from flowstream.host.rtnetlink import RTM_NEWLINK
from flowstream.kernel import libbpf
from flowstream.kernel.link import Link, Mode
from support.net import OFFLOADS_OFF, Interface, interface, namespace
from support.programs import PASSING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Namespace

MTU = 1500
_TAGS = 8
"""Octets of two VLAN tags, which come on top of it."""

BIG = 180_000
"""Octets of a segment of BIG TCP."""
# linux/if_link.h
_MAX_SIZES = {"gso": 41, "gro": 58, "gso_ipv4": 63, "gro_ipv4": 64}


@dataclass(frozen=True, slots=True)
class Host:
    """A host with one device. ``addresses``: by IP version, 4 and 6."""

    device: Interface
    addresses: dict[int, str]
    mac: str

    @property
    def mac_octets(self) -> bytes:
        """The MAC address as it is in a frame."""
        return bytes.fromhex(self.mac.replace(":", ""))

    def socket(self, version: int, kind: socket.SocketKind) -> socket.socket:
        """Make a socket of the host."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with self.device.namespace.entered():
            return socket.socket(family, kind)

    def run(self, *argv: str) -> str:
        """Run a program there and return its output."""
        return self.device.namespace.run(*argv)

    def offload(self, *features: str) -> None:
        """Switch features of the device, as ``ethtool -K`` does."""
        self.run("ethtool", "-K", self.device.name, *features)


class Hosts(NamedTuple):
    """The two hosts, and the devices between them, each the peer of a host's own."""

    observed: Host
    far: Host
    inner: Interface
    outer: Interface

    @property
    def devices(self) -> tuple[Interface, ...]:
        """All four of them."""
        return self.observed.device, self.inner, self.outer, self.far.device

    def take_big_segments(self) -> None:
        """Let both hosts use segments of more than 64 KiB (BIG TCP)."""
        for device in self.devices:
            with device.namespace.entered():
                allow_big_segments(device.index)

    def lost(self) -> dict[str, int]:
        """Packets that a device on the way had no room for, where there are any."""
        counts = {
            f"{device.name} {name}": device.statistic(name)
            for device in self.devices
            for name in ("rx_dropped", "tx_dropped", "rx_errors", "tx_errors")
        }
        return {what: count for what, count in counts.items() if count}


@contextlib.contextmanager
def hosts(mtu: int = MTU) -> Iterator[Hosts]:
    """Make the hosts; they vanish with the block."""
    with namespace() as here, namespace() as middle, namespace() as there:
        _bridge(middle)
        near = _host(here, "near", "inner", middle, 1, mtu)
        # Else the wire would hand packets to the device without GRO.
        middle.run("ethtool", "-K", "inner", "tso", "off", "gro", "on")
        here.run("ethtool", "-K", "near", "gro", "on")
        # Packets wait 2 ms for others that can be joined with them.
        waits = "/sys/class/net/near/gro_flush_timeout", "/sys/class/net/near/napi_defer_hard_irqs"
        here.run("sh", "-c", f"echo 2000000 > {waits[0]} && echo 1 > {waits[1]}")
        far = _host(there, "far", "outer", middle, 2, mtu)
        made = Hosts(near, far, interface(middle, "inner"), interface(middle, "outer"))
        with ExitStack() as stack:
            for device in (made.outer, far.device):
                # A tag stays beside its packet: the kernel does not cut all that have one.
                features = (*OFFLOADS_OFF, "tx-udp-segmentation", "off", "txvlan", "on")
                device.namespace.run("ethtool", "-K", device.name, *features)
                # Without GRO, a veth has a queue of its own only with an XDP program.
                stack.enter_context(_passing(device))
            # Nor all that have no checksum yet.
            far.offload("tx", "on")
            yield made


@contextlib.contextmanager
def _passing(device: Interface) -> Iterator[None]:
    fd = libbpf.prog_load("passing", PASSING, libbpf.BPF_F_XDP_HAS_FRAGS)
    try:
        with device.namespace.entered(), Link(fd, device.index, Mode.NATIVE):
            yield
    finally:
        os.close(fd)


def _bridge(place: Namespace) -> None:
    # Netfilter would put fragments together.
    place.run("sh", "-c", "for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 > $f; done")
    place.run("ip", "link", "add", "middle", "type", "bridge", "mcast_snooping", "0")
    place.run("ip", "link", "set", "middle", "mtu", "65535", "up")


def _host(
    place: Namespace, name: str, peer: str, middle: Namespace, number: int, mtu: int
) -> Host:
    """Connect a host to the bridge; its peer is host 3 - ``number``."""
    place.run(
        "ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", middle.name
    )
    for where, device in ((place, name), (middle, peer)):
        where.run(
            "ip", "link", "set", device, "mtu", str(mtu + _TAGS), "arp", "off", "multicast", "off"
        )
    middle.run("ip", "link", "set", peer, "master", "middle", "up")
    keys = {"disable_ipv6": 0, "accept_dad": 0, "router_solicitations": 0, "addr_gen_mode": 1}
    place.run("sysctl", "-qw", *(f"net.ipv6.conf.{name}.{key}={keys[key]}" for key in keys))
    place.run("ip", "link", "set", name, "address", _mac(number), "up")
    for address, other in zip(_addresses(number), _addresses(3 - number), strict=True):
        place.run("ip", "address", "add", address, "dev", name)
        place.run("ip", "route", "add", other, "dev", name, "mtu", str(mtu))
        neighbour = (other, "lladdr", _mac(3 - number), "dev", name, "nud", "permanent")
        place.run("ip", "neighbour", "add", *neighbour)
    addresses = dict(zip((4, 6), _addresses(number), strict=True))
    return Host(interface(place, name), addresses, _mac(number))


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _addresses(number: int) -> tuple[str, str]:
    return f"10.79.0.{number}", f"fd79::{number}"


def allow_big_segments(index: int) -> None:
    """Let a device of the calling thread's namespace take segments of ``BIG`` octets.

    As ``ip link set gso_max_size`` and others do; Debian's knows only some of them.
    """
    sizes = b"".join(netlink.attribute(kind, BIG) for kind in _MAX_SIZES.values())
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + sizes
    with RouteSocket() as kernel:
        kernel.ask(lambda seq: netlink.request(RTM_NEWLINK, NLM_F_ACK, seq, body))

"""Findings about an interface: link, XDP support, VLAN offloads, attached programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.errors import KernelError
from flowstream.host.interfaces import InterfaceFacts, XdpFeature, facts
from flowstream.host.link_types import Framing
from flowstream.kernel import libbpf
from flowstream.kernel.link import interface_names

if TYPE_CHECKING:
    from collections.abc import Iterator

# A driver without multi-buffer support needs the whole packet in one page of 4096
# octets, less 256 of headroom, the shared info and the Ethernet header.
_LARGEST_MTU_OF_ONE_BUFFER: Final = 3_498


def check_interface(name: str) -> Iterator[Finding]:
    """Check one interface of this network namespace."""
    found = facts(name)
    if found is None:
        text = f"no such interface; there are: {interface_names()}"
        yield Finding(Status.FAIL, name, text)
    else:
        yield from findings(found)


def findings(found: InterfaceFacts) -> Iterator[Finding]:
    """Judge the facts of an interface."""
    name = found.name
    framing, reason = found.reading
    if framing is None:
        yield Finding(Status.FAIL, name, reason, "leave it out")
    if framing is Framing.RAW_IP:
        yield Finding(Status.OK, name, "has no link-layer header: packets are read as raw IP")
    if found.up:
        yield Finding(Status.OK, name, f"is up, MTU {found.mtu}")
    else:
        yield Finding(Status.WARN, name, "is down", f"ip link set dev {name} up")
    yield native_xdp(found)
    if framing is Framing.ETHERNET:
        yield vlan_tags(found)
    yield _attached(found)


def native_xdp(found: InterfaceFacts) -> Finding:
    """Judge whether the driver runs XDP programs at the interface's MTU."""
    if found.xdp_features is None:
        text = "this kernel does not report whether the driver has native XDP; mode auto tries it"
        return Finding(Status.OK, found.name, text)
    if not found.xdp_features & XdpFeature.BASIC:
        text = "the driver has no native XDP"
        return Finding(Status.WARN, found.name, text, "modes auto and generic work, but slower")
    if found.mtu > _LARGEST_MTU_OF_ONE_BUFFER and not found.xdp_features & XdpFeature.RX_SG:
        text = f"the driver has native XDP only for packets within a page, and MTU {found.mtu}"
        remedy = f"ip link set dev {found.name} mtu {_LARGEST_MTU_OF_ONE_BUFFER}, or mode generic"
        return Finding(Status.WARN, found.name, text, remedy)
    return Finding(Status.OK, found.name, "the driver has native XDP")


def vlan_tags(found: InterfaceFacts) -> Finding:
    """Judge whether XDP programs see VLAN tags."""
    if found.kind == "veth":
        # Its own switches have no effect: the peer's stack leaves the tag beside the packet.
        text = "VLAN tags reach XDP if the peer writes them into the packet"
        return Finding(Status.OK, found.name, text, "for that, ethtool -K PEER txvlan off")
    if not found.rx_vlan_offloads:
        return Finding(Status.OK, found.name, "VLAN tags reach XDP")
    text = "VLAN tags are removed before XDP sees the packet: vlan_id will be 0"
    switches = " ".join(f"{offload} off" for offload in found.rx_vlan_offloads)
    return Finding(Status.WARN, found.name, text, f"ethtool -K {found.name} {switches}")


def _attached(found: InterfaceFacts) -> Finding:
    try:
        program = libbpf.attached_program(found.index)
    except KernelError as err:
        return Finding(Status.WARN, found.name, f"attached XDP program unknown: {err}")
    if program is None:
        return Finding(Status.OK, found.name, "no XDP program attached")
    text = f"XDP program {program[1]} (id {program[0]}) is attached"
    remedy = f"stop its owner, or, if it has none: ip link set dev {found.name} xdp off"
    return Finding(Status.FAIL, found.name, text, remedy)

"""Findings about the hooks by which the packets of an interface are observed."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from flowstream.accounting.attachment_key import INGRESS
from flowstream.check.finding import Finding, Status
from flowstream.config.hooks import TCX, needs_tc_hook
from flowstream.errors import KernelError
from flowstream.host.drivers import XdpFeature
from flowstream.host.link_types import Framing
from flowstream.kernel import features, libbpf
from flowstream.kernel.explain import is_own, named, removal

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from flowstream.config.hooks import AttachModes
    from flowstream.host.drivers import DriverFacts
    from flowstream.host.links import LinkFacts

# A driver without multi-buffer support needs the whole packet in one page, less 256
# octets of headroom, the shared info and the Ethernet header with two VLAN tags.
_LARGEST_MTU_OF_ONE_BUFFER: Final = mmap.PAGESIZE - 598
_TCX_COPIES_NONE: Final = "--hook tcx copies none, and takes less than half the time"
_GENERIC: Final = (
    "the driver has no native XDP: generic XDP copies packets, and counts a segment that is still "
    "to be cut as one packet"
)
_HIDES: Final = "; from Linux 6.9 on it hides the Ethernet header from other TC programs"
_TCX_DOES_NONE: Final = "--hook tcx does none of that, and takes less than half the time"
_UNSEEN: Final = "what it drops or redirects is not observed"


def tc_hook(modes: AttachModes, *, pinned: bool) -> Finding:
    """Say what attaches programs to the TC hook on this kernel.

    ``pinned``: they are to stay when the agent ends.
    """
    needed = ".".join(map(str, features.TCX))
    serves = "serves egress and --hook tcx"
    if features.has_tcx():
        return Finding(Status.OK, "TC hook", f"TCX {serves}")
    if pinned and needs_tc_hook(modes):
        text = f"--pin at the TC hook requires Linux {needed} or later"
        remedy = "leave out --pin, or observe received packets by --hook xdp"
        return Finding(Status.FAIL, "TC hook", text, remedy)
    return Finding(Status.OK, "TC hook", f"a clsact filter {serves}, before Linux {needed}")


def check_hooks(
    name: str, link: LinkFacts, driver: DriverFacts, modes: AttachModes
) -> Iterator[Finding]:
    """Judge what an interface and its driver do for ``modes``; findings call it ``name``."""
    by_xdp = uses_xdp(modes)
    if by_xdp:
        yield native_xdp(name, link, driver)
    if link.reading.framing is Framing.ETHERNET:
        if by_xdp:
            yield vlan_tags(name, link, driver)
        else:
            yield Finding(Status.OK, name, "VLAN tags reach the TC hook")


def uses_xdp(modes: AttachModes) -> bool:
    """Whether received packets are observed by XDP."""
    return INGRESS in modes and modes[INGRESS][0] != TCX


def native_xdp(name: str, link: LinkFacts, driver: DriverFacts) -> Finding:
    """Judge whether the driver runs XDP programs at the interface's MTU."""
    if driver.xdp_features is None:
        text = "this kernel does not report whether the driver has native XDP; mode auto tries it"
        return Finding(Status.OK, name, text)
    if not driver.xdp_features & XdpFeature.BASIC:
        text = _GENERIC + (_HIDES if link.reading.framing is Framing.ETHERNET else "")
        return Finding(Status.WARN, name, text, _TCX_DOES_NONE)
    if link.mtu > _LARGEST_MTU_OF_ONE_BUFFER and not driver.xdp_features & XdpFeature.RX_SG:
        text = f"the driver has native XDP only for packets within a page, and MTU {link.mtu}"
        mtu = f"ip link set dev {link.name} mtu {_LARGEST_MTU_OF_ONE_BUFFER}"
        return Finding(Status.WARN, name, text, f"--hook tcx, or {mtu}")
    # A bond hands the program on to its members.
    if not link.physical and link.kind != "bond":
        text = "the driver has native XDP, for which it copies packets, being virtual"
        return Finding(Status.OK, name, text, _TCX_COPIES_NONE)
    return Finding(Status.OK, name, "the driver has native XDP")


def vlan_tags(name: str, link: LinkFacts, driver: DriverFacts) -> Finding:
    """Judge whether XDP programs see VLAN tags."""
    if link.kind == "veth":
        # Its own switches have no effect: the peer's stack leaves the tag beside the packet.
        text = "VLAN tags reach XDP if the peer writes them into the packet"
        return Finding(Status.OK, name, text, "--hook tcx, or ethtool -K PEER txvlan off")
    if not driver.rx_vlan_offloads:
        return Finding(Status.OK, name, "VLAN tags reach XDP")
    text = "VLAN tags are removed before XDP sees the packet: vlan_id will be 0"
    switches = " ".join(f"{offload} off" for offload in driver.rx_vlan_offloads)
    return Finding(Status.WARN, name, text, f"--hook tcx, or ethtool -K {link.name} {switches}")


def holder(name: str, link: LinkFacts, modes: AttachModes, pinned: Container[int]) -> Finding:
    """Say which XDP program is on a link, and what that means for ``modes``.

    The link is one of the calling thread's network namespace. ``pinned`` are the numbers of
    programs that the next agent takes over.
    """
    try:
        program = libbpf.attached_program(link.index)
    except KernelError as err:
        return Finding(Status.WARN, name, f"attached XDP program unknown: {err}")
    if program is None:
        return Finding(Status.OK, name, "no XDP program attached")
    text = f"{named(program)} is attached"
    if program[0] in pinned:
        return Finding(Status.OK, name, f"{text} and pinned: the next agent takes it over")
    return _other(name, link, modes, program[1], text)


def _other(name: str, link: LinkFacts, modes: AttachModes, program: str, text: str) -> Finding:
    if INGRESS not in modes:
        return Finding(Status.OK, name, text)
    if not uses_xdp(modes):
        return Finding(Status.WARN, name, f"{text}: {_UNSEEN}")
    if TCX in modes[INGRESS] and not is_own(program):
        return Finding(Status.WARN, name, f"{text}: --hook auto takes tcx beside it; {_UNSEEN}")
    remedy = f"--hook tcx to observe beside it, or {removal(program, link.name)}"
    return Finding(Status.FAIL, name, text, remedy)

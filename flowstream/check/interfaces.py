"""Findings about interfaces: which are chosen, and each one's link, XDP, VLANs and programs."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.errors import FlowstreamError, KernelError
from flowstream.host.drivers import DriverFacts, XdpFeature, driver_facts
from flowstream.host.link_types import Framing
from flowstream.host.links import LinkMonitor, netnsids
from flowstream.host.namespaces import open_all
from flowstream.host.overlaps import Seen, overlaps
from flowstream.kernel import libbpf
from flowstream.kernel.explain import named, removal
from flowstream.wording import listed

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from flowstream.host.links import LinkFacts
    from flowstream.host.namespaces import Namespace
    from flowstream.host.selection import Selection

# A driver without multi-buffer support needs the whole packet in one page of 4096
# octets, less 256 of headroom, the shared info and the Ethernet header.
_LARGEST_MTU_OF_ONE_BUFFER: Final = 3_498
_SUBJECT: Final = "interfaces"
_MISSING: Final = "correct the name; for an interface that comes later give a glob, such as 'ens*'"
_SHOWN: Final = 8


def check_interfaces(
    selection: Selection, netns: Sequence[str], pinned: Container[int] = ()
) -> Iterator[Finding]:
    """Check the interfaces that a run would choose in these network namespaces.

    ``pinned``: numbers of the programs that it would take over.
    """
    try:
        places = _open(netns)
    except FlowstreamError as err:
        yield Finding(Status.FAIL, "netns", str(err).removeprefix("netns: "))
        return
    with ExitStack() as stack:
        for namespace, monitor in places:
            stack.enter_context(namespace)
            stack.enter_context(monitor)
        yield from _check(selection, places, pinned)


def _open(netns: Sequence[str]) -> list[tuple[Namespace, LinkMonitor]]:
    return [(each, LinkMonitor(each)) for each in open_all(netns)]


def _check(
    selection: Selection,
    places: Sequence[tuple[Namespace, LinkMonitor]],
    pinned: Container[int],
) -> Iterator[Finding]:
    there = {namespace: monitor.links().values() for namespace, monitor in places}
    starts = True
    try:
        selection.require_named({each.label: links for each, links in there.items()})
    except FlowstreamError as err:
        starts = False
        remedy = _MISSING if isinstance(err, KernelError) else ""
        yield Finding(Status.FAIL, _SUBJECT, str(err).removeprefix("interface: "), remedy)
    several = len(places) > 1
    seen = [
        Seen(each.number, each.label if several else "", link)
        for each, links in there.items()
        for link in links
    ]
    yield from choice(selection, seen, starts=starts)
    chosen = [each for each in seen if selection.chooses(each.link)]
    for namespace in there:
        with namespace.entered():
            for each in chosen:
                if each.place == namespace.number:
                    yield from findings(each.name, each.link, driver_facts(each.link))
                    yield _attached(each.name, each.link, pinned)
    for overlap in overlaps(chosen, netnsids(places)):
        remedy = "leave out one or the other, for example by -i '!NAME'"
        yield Finding(Status.WARN, overlap.interface.name, overlap.text, remedy)


def choice(
    selection: Selection, seen: Sequence[Seen], *, starts: bool = True
) -> Iterator[Finding]:
    """Say which interfaces are chosen, and why the others are not.

    ``starts``: whether the agent would start, and so wait for an interface if there is none.
    """
    names = defaultdict(list)
    for each in seen:
        names[selection.objection(each.link)].append(each.name)
    if chosen := names.pop("", []):
        yield Finding(Status.OK, _SUBJECT, f"chosen: {listed(chosen, _SHOWN)}")
    elif starts:
        text = "none is chosen: the agent waits for one"
        yield Finding(Status.WARN, _SUBJECT, text, "choose by -i and --interface-kind")
    for objection, others in names.items():
        yield Finding(Status.OK, _SUBJECT, f"not chosen, {objection}: {listed(others, _SHOWN)}")


def findings(name: str, link: LinkFacts, driver: DriverFacts) -> Iterator[Finding]:
    """Judge the facts of an interface, which the findings call ``name``."""
    framing, reason = link.reading
    if framing is None:
        yield Finding(Status.FAIL, name, reason, f"leave it out: -i '!{link.name}'")
    if framing is Framing.RAW_IP:
        yield Finding(Status.OK, name, "has no link-layer header: packets are read as raw IP")
    if link.up:
        yield Finding(Status.OK, name, f"is up, MTU {link.mtu}")
    else:
        yield Finding(Status.WARN, name, "is down", f"ip link set dev {link.name} up")
    yield native_xdp(name, link, driver)
    if framing is Framing.ETHERNET:
        yield vlan_tags(name, link, driver)


def native_xdp(name: str, link: LinkFacts, driver: DriverFacts) -> Finding:
    """Judge whether the driver runs XDP programs at the interface's MTU."""
    if driver.xdp_features is None:
        text = "this kernel does not report whether the driver has native XDP; mode auto tries it"
        return Finding(Status.OK, name, text)
    if not driver.xdp_features & XdpFeature.BASIC:
        text = "the driver has no native XDP"
        return Finding(Status.WARN, name, text, "modes auto and generic work, but slower")
    if link.mtu > _LARGEST_MTU_OF_ONE_BUFFER and not driver.xdp_features & XdpFeature.RX_SG:
        text = f"the driver has native XDP only for packets within a page, and MTU {link.mtu}"
        remedy = f"ip link set dev {link.name} mtu {_LARGEST_MTU_OF_ONE_BUFFER}, or mode generic"
        return Finding(Status.WARN, name, text, remedy)
    return Finding(Status.OK, name, "the driver has native XDP")


def vlan_tags(name: str, link: LinkFacts, driver: DriverFacts) -> Finding:
    """Judge whether XDP programs see VLAN tags."""
    if link.kind == "veth":
        # Its own switches have no effect: the peer's stack leaves the tag beside the packet.
        text = "VLAN tags reach XDP if the peer writes them into the packet"
        return Finding(Status.OK, name, text, "for that, ethtool -K PEER txvlan off")
    if not driver.rx_vlan_offloads:
        return Finding(Status.OK, name, "VLAN tags reach XDP")
    text = "VLAN tags are removed before XDP sees the packet: vlan_id will be 0"
    switches = " ".join(f"{offload} off" for offload in driver.rx_vlan_offloads)
    return Finding(Status.WARN, name, text, f"ethtool -K {link.name} {switches}")


def _attached(name: str, link: LinkFacts, pinned: Container[int]) -> Finding:
    try:
        program = libbpf.attached_program(link.index)
    except KernelError as err:
        return Finding(Status.WARN, name, f"attached XDP program unknown: {err}")
    if program is None:
        return Finding(Status.OK, name, "no XDP program attached")
    text = f"{named(*program)} is attached"
    if program[0] in pinned:
        return Finding(Status.OK, name, f"{text} and pinned: the next agent takes it over")
    return Finding(Status.FAIL, name, text, removal(program[1], link.name))

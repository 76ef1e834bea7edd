"""Findings about interfaces: which are chosen, their links, and which see the same packets."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.check.hooks import check_hooks, holder
from flowstream.errors import FlowstreamError, KernelError
from flowstream.host.drivers import driver_facts
from flowstream.host.link_types import Framing
from flowstream.host.links import LinkMonitor, netnsids
from flowstream.host.namespaces import open_all
from flowstream.host.overlaps import Seen, overlaps
from flowstream.wording import listed

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from flowstream.config.hooks import AttachModes
    from flowstream.host.drivers import DriverFacts
    from flowstream.host.links import LinkFacts
    from flowstream.host.namespaces import Namespace
    from flowstream.host.selection import Selection

_SUBJECT: Final = "interfaces"
_MISSING: Final = "correct the name; for an interface that comes later give a glob, such as 'ens*'"
_SHOWN: Final = 8


def check_interfaces(
    selection: Selection,
    netns: Sequence[str],
    modes: AttachModes,
    pinned: Container[int] = (),
    not_raw_ip: str = "",
) -> Iterator[Finding]:
    """Check the interfaces that a run would choose in these network namespaces.

    It would attach with ``modes``. ``pinned``: numbers of the programs that it would take over.
    ``not_raw_ip``: why its filter has no meaning without a link-layer header.
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
        yield from _check(selection, places, modes, pinned, not_raw_ip)


def _open(netns: Sequence[str]) -> list[tuple[Namespace, LinkMonitor]]:
    return [(each, LinkMonitor(each)) for each in open_all(netns)]


def _check(
    selection: Selection,
    places: Sequence[tuple[Namespace, LinkMonitor]],
    modes: AttachModes,
    pinned: Container[int],
    not_raw_ip: str,
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
                    driver = driver_facts(each.link)
                    yield from findings(each.name, each.link, driver, modes, not_raw_ip)
                    yield holder(each.name, each.link, modes, pinned)
    for overlap in overlaps(chosen, netnsids(places), both=len(modes) > 1):
        yield Finding(Status.WARN, overlap.interface.name, overlap.text, overlap.remedy)


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


def findings(
    name: str, link: LinkFacts, driver: DriverFacts, modes: AttachModes, not_raw_ip: str = ""
) -> Iterator[Finding]:
    """Judge the facts of an interface, which the findings call ``name``."""
    framing, reason = link.reading
    if framing is None:
        yield Finding(Status.FAIL, name, reason, f"leave it out: -i '!{link.name}'")
    if framing is Framing.RAW_IP and not_raw_ip:
        text = f"the filter has no meaning without a link-layer header: {not_raw_ip}"
        remedy = f"use one of IP alone, or leave the interface out: -i '!{link.name}'"
        yield Finding(Status.FAIL, name, text, remedy)
    elif framing is Framing.RAW_IP:
        yield Finding(Status.OK, name, "has no link-layer header: packets are read as raw IP")
    if link.up:
        yield Finding(Status.OK, name, f"is up, MTU {link.mtu}")
    else:
        yield Finding(Status.WARN, name, "is down", f"ip link set dev {link.name} up")
    yield from check_hooks(name, link, driver, modes)

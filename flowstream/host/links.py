"""The links (interfaces) of a network namespace, as the kernel reports them."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.closing import Closing
from flowstream.host import rtnetlink
from flowstream.host.kernel_version import kernel_version
from flowstream.host.link_types import LOOPBACK, Reading, reading
from flowstream.host.netlink import DamagedMessageError
from flowstream.host.route_socket import RouteSocket, failed
from flowstream.host.rtnetlink import Attribute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.host.namespaces import Namespace
    from flowstream.host.netlink import Message
    from flowstream.host.rtnetlink import LinkMessage

# linux/if.h
_IFF_UP: Final = 1
_IFF_POINTOPOINT: Final = 1 << 4
_PARENT_DEV_NAME: Final = (5, 14)
"""Linux version from which the kernel reports parent devices."""

_MOST: Final = 1 << 15
"""Messages of one ``read``: more than wait, so that all of them are read before an answer."""
_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """A link at one moment.

    Names are decoded like file names (os.fsdecode): the kernel takes any octets.
    ``kind`` is the kernel's word for a virtual link, such as veth, else "". ``link_type`` is an
    ARPHRD number, ``point_to_point`` is IFF_POINTOPOINT. ``mtu`` is in octets; ``up`` is the
    administrative state. ``master`` is the index of the bond, bridge or the like that the link
    belongs to, ``lower`` that of the link below, or of a veth's peer; 0 is none.
    ``lower_netnsid`` is the number of the namespace of ``lower`` in this namespace, None: it
    is in the same one. ``parent_device`` names the device behind it, "" without one, None
    where the kernel does not report it.
    ``incarnation`` tells apart the links that have had one index.
    """

    index: int
    name: str
    altnames: tuple[str, ...] = ()
    kind: str = ""
    link_type: int = 1
    point_to_point: bool = False
    up: bool = True
    mtu: int = 1500
    master: int = 0
    lower: int = 0
    lower_netnsid: int | None = None
    parent_device: str | None = ""
    incarnation: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and altnames."""
        return (self.name, *self.altnames)

    @property
    def physical(self) -> bool:
        """Whether a device of this host or virtual machine is behind it."""
        if self.parent_device is None:
            return not self.kind and self.link_type != LOOPBACK
        return bool(self.parent_device)

    @property
    def reading(self) -> Reading:
        """How its packets are read."""
        return reading(
            self.link_type, self.kind, point_to_point=self.point_to_point, kernel=kernel_version()
        )


class Departure(NamedTuple):
    """A link that went, by its last facts; ``moved``: into another network namespace."""

    link: LinkFacts
    moved: bool


def facts_of(told: LinkMessage, *, reports_parents: bool) -> LinkFacts | None:
    """Return the facts of an RTM_NEWLINK, None when it is not about a link as a whole.

    Those are the messages of bridges about their ports, and of wireless drivers. Raises
    ``DamagedMessageError``.
    """
    mtu = told.number(Attribute.IFLA_MTU)
    if told.family != socket.AF_UNSPEC or mtu is None:
        return None
    parent = os.fsdecode(told.text(Attribute.IFLA_PARENT_DEV_NAME))
    return LinkFacts(
        index=told.index,
        name=os.fsdecode(told.text(Attribute.IFLA_IFNAME)),
        altnames=tuple(map(os.fsdecode, told.altnames())),
        kind=os.fsdecode(told.kind()),
        link_type=told.link_type,
        point_to_point=bool(told.flags & _IFF_POINTOPOINT),
        up=bool(told.flags & _IFF_UP),
        mtu=mtu,
        master=told.number(Attribute.IFLA_MASTER) or 0,
        lower=told.number(Attribute.IFLA_LINK) or told.vxlan_link() or 0,
        lower_netnsid=told.number(Attribute.IFLA_LINK_NETNSID),
        parent_device=parent if reports_parents else None,
    )


class LinkMonitor(Closing):
    """Follows the links of a network namespace.

    Its sockets are opened inside the namespace, which may take privileges (``KernelError``),
    and used without any. They keep the namespace alive until ``close``. The kernel does not
    report a new altname of a link that is down: it is seen with the link's next change.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._table: dict[int, LinkFacts] = {}
        self._complete = False
        self._incarnations = itertools.count(1)
        self._reports_parents = kernel_version() >= _PARENT_DEV_NAME
        with ExitStack() as stack, namespace.entered():
            self._events = stack.enter_context(RouteSocket(rtnetlink.RTMGRP_LINK))
            self._requests = stack.enter_context(RouteSocket())
            self.read()
            self._stack = stack.pop_all()

    @property
    def fd(self) -> int:
        """Descriptor that is readable when there is something to ``read``."""
        return self._events.fd

    def links(self) -> Mapping[int, LinkFacts]:
        """Return the links by index, as of the last ``read``."""
        return dict(self._table)

    def link(self, index: int) -> LinkFacts | None:
        """Return one of them, without a copy of all; None when there is none."""
        return self._table.get(index)

    def read(self) -> list[Departure]:
        """Take in what the kernel reported; return the links that went, in order.

        Does not block, unless messages were lost: then it asks for all links, and waits for
        the kernel's lock of them. Of a link that vanished and came back under the same index
        meanwhile, only another kind or type is noticed. Raises ``KernelError`` when
        the kernel does not answer.
        """
        departures: list[Departure] = []
        self._read_events(departures)
        if not self._complete:
            self._read_all(departures)
        return departures

    def _read_events(self, departures: list[Departure]) -> None:
        for _ in range(_MOST):
            try:
                for message in self._events.receive():
                    self._take(message, departures)
            except BlockingIOError:
                return
            except DamagedMessageError:
                self._complete = False
            except OSError as err:
                self._complete = False
                if err.errno != errno.ENOBUFS:
                    raise failed(err) from err

    def _take(self, message: Message, departures: list[Departure]) -> None:
        if message.kind == rtnetlink.RTM_NEWLINK:
            self._put(self._facts(message))
        elif message.kind == rtnetlink.RTM_DELLINK:
            told = rtnetlink.link_message(message.body)
            # A bridge reports in the same way that it lost a port.
            if told.family == socket.AF_UNSPEC and told.index in self._table:
                moved = Attribute.IFLA_NEW_NETNSID in told.attributes
                departures.append(Departure(self._table.pop(told.index), moved))

    def _facts(self, message: Message) -> LinkFacts | None:
        told = rtnetlink.link_message(message.body)
        return facts_of(told, reports_parents=self._reports_parents)

    def _put(self, facts: LinkFacts | None) -> None:
        if facts is not None:
            known = self._table.get(facts.index)
            incarnation = known.incarnation if known else next(self._incarnations)
            self._table[facts.index] = replace(facts, incarnation=incarnation)

    def _read_all(self, departures: list[Departure]) -> None:
        """Compare the table with all links that there are.

        Changes from the question on are reported to the other socket too, and are read after
        the answer: no order of the two can leave a wrong table.
        """
        for _ in range(_TRIES):
            found = self._ask()
            if self._complete:
                break
        for index, known in tuple(self._table.items()):
            link = found.get(index)
            if (
                # An answer that was interrupted may lack a link.
                (link is None and self._complete)
                or (link and (link.kind, link.link_type) != (known.kind, known.link_type))
            ):
                departures.append(Departure(self._table.pop(index), moved=False))
        for link in found.values():
            self._put(link)

    def _ask(self) -> dict[int, LinkFacts]:
        """Return all links; ``_complete`` says whether they stayed the same meanwhile."""
        answer, self._complete = self._requests.ask(rtnetlink.dump_links)
        found: dict[int, LinkFacts] = {}
        for message in answer:
            try:
                if link := self._facts(message):
                    found[link.index] = link
            except DamagedMessageError:
                self._complete = False
        return found

    def netnsid(self, namespace: Namespace) -> int | None:
        """Return the number that this namespace has for another one, None without one."""
        with namespace.descriptor() as fd:
            answer, _ = self._requests.ask(partial(rtnetlink.get_netnsid, fd=fd))
        return rtnetlink.netnsid_of(answer)

    def close(self) -> None:
        """Release the namespace."""
        self._stack.close()


def netnsids(places: Sequence[tuple[Namespace, LinkMonitor]]) -> dict[tuple[int, int], int]:
    """Return which of the namespaces the links in them mean by ``lower_netnsid``.

    The number of a namespace by that of another one, and by the number that it has there.
    """
    found = {}
    for namespace, monitor in places:
        if all(link.lower_netnsid is None for link in monitor.links().values()):
            continue
        for other, _ in places:
            number = None if other is namespace else monitor.netnsid(other)
            if number is not None:
                found[namespace.number, number] = other.number
    return found

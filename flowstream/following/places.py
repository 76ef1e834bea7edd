"""The network namespaces that a run observes, with their links and what is attached there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.errors import KernelError
from flowstream.host.link_types import Framing
from flowstream.host.links import LinkMonitor
from flowstream.host.namespaces import open_all
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from flowstream.host.links import LinkFacts
    from flowstream.host.namespaces import Namespace
    from flowstream.kernel.link import Mode

_INDEX_BITS: Final = 24
"""Bits of an interface index in records, where a run observes several namespaces."""
READ_AGAIN_S: Final = 2.0
"""Pause before the kernel is asked again for links that it did not report."""

log = structlog.get_logger()


class LinkKey(NamedTuple):
    """A link of a run: number of its namespace, index, and incarnation."""

    namespace: int
    if_index: int
    incarnation: int


@dataclass(slots=True)
class Followed:
    """A link with attachments, as it was last seen, and the directions that have one.

    ``gone``: it went, ``moved``: to another namespace.
    """

    link: LinkFacts
    directions: set[int] = field(default_factory=set)
    gone: bool = False
    moved: bool = False


class Place:
    """One network namespace; ``followed`` by the kernel's index. ``alone``: the run's only one."""

    def __init__(self, namespace: Namespace, monitor: LinkMonitor, *, alone: bool = True) -> None:
        self.namespace, self.monitor, self._alone = namespace, monitor, alone
        self.followed: dict[int, Followed] = {}
        self.due = math.inf
        """When it has to be read again, since the kernel gave no answer; time.monotonic()."""

    @property
    def answers(self) -> bool:
        """Whether the kernel answered when it was read."""
        return self.due == math.inf

    @property
    def label(self) -> str:
        """Name of the namespace as given, empty for the agent's own."""
        return self.namespace.label

    def links(self) -> Mapping[int, LinkFacts]:
        """Return its links by index."""
        return self.monitor.links()

    @property
    def may_go(self) -> bool:
        """Whether the namespace is not the agent's own."""
        return self.namespace.fd is not None

    def read(self) -> None:
        """Take in what the kernel reported; may block.

        Without an answer the links stay as they were, and it is ``due`` again.
        """
        try:
            departures = self.monitor.read()
        except KernelError as err:
            if self.answers:
                log.warning("links_not_read", netns=self.label, error=str(err))
            self.due = time.monotonic() + READ_AGAIN_S
            return
        self.due = math.inf
        for link, moved in departures:
            its = self.followed.get(link.index)
            if its and its.link.incarnation == link.incarnation:
                its.gone, its.moved = True, moved

    def follow(self, link: LinkFacts, direction: int) -> None:
        """Note that a link is attached to in a direction."""
        self.followed.setdefault(link.index, Followed(link)).directions.add(direction)

    def release(self, link: LinkFacts, direction: int) -> None:
        """Note that a link is not attached to any more in a direction."""
        directions = self.followed[link.index].directions
        directions.remove(direction)
        if not directions:
            del self.followed[link.index]

    def is_followed(self, link: LinkFacts, direction: int) -> bool:
        """Whether a link is attached to in a direction."""
        its = self.followed.get(link.index)
        return its is not None and direction in its.directions

    def has_left(self, its: Followed) -> bool:
        """Whether a link with attachments is not there any more."""
        now = self.monitor.link(its.link.index)
        return its.gone or now is None or now.incarnation != its.link.incarnation

    def changes(self) -> Iterator[tuple[Followed, LinkFacts]]:
        """Links with attachments that have changed, with the link as it is now."""
        links = self.links()
        for its in self.followed.values():
            now = links.get(its.link.index)
            if now is not None and now != its.link and not self.has_left(its):
                yield its, now

    def named(self, link: LinkFacts) -> dict[str, str | int]:
        """What a log record says of a link."""
        named: dict[str, str | int] = {"interface": link.name, "if_index": link.index}
        return named | ({"netns": self.label} if self.may_go else {})

    def link_key(self, link: LinkFacts) -> LinkKey:
        """Key of a link among those of all places."""
        return LinkKey(self.namespace.number, link.index, link.incarnation)

    def attachment_key(self, link: LinkFacts, direction: int) -> AttachmentKey:
        """Key of the attachment of a link in a direction."""
        return AttachmentKey(self.record_index(link), direction)

    def target(self, link: LinkFacts, direction: int, mode: Mode, sampling: int) -> Target:
        """Return what to attach to. KernelError when its packets or index cannot be recorded."""
        framing, reason = link.reading
        if framing is None:
            raise KernelError(
                f"interface {link.name}: {reason}; leave it out by -i '!{link.name}'"
            )
        index = self.record_index(link)
        if not self._alone and link.index >> _INDEX_BITS:
            raise KernelError(
                f"interface {link.name} has index {link.index}: with several --netns, records "
                f"have room for {_INDEX_BITS} bits; observe its namespace by an agent of its own"
            )
        return Target(
            link.name,
            link.index,
            index,
            mode,
            sampling,
            direction,
            raw=framing is Framing.RAW_IP,
            netns_fd=self.namespace.fd,
        )

    def record_index(self, link: LinkFacts) -> int:
        """Index of a link in records."""
        if self._alone:
            return link.index
        return self.namespace.number << _INDEX_BITS | link.index

    def close(self) -> None:
        """Release the namespace; harmless twice."""
        self.monitor.close()
        self.namespace.close()


def open_places(labels: Sequence[str]) -> list[Place]:
    """Open the namespaces of a run; without a label, the process's own.

    Takes privileges, except for that. Raises ``KernelError`` and ``UsageError``.
    """
    namespaces = open_all(labels)
    try:
        return [Place(each, LinkMonitor(each), alone=len(namespaces) == 1) for each in namespaces]
    except BaseException:
        for each in namespaces:
            each.close()
        raise


def links_by_label(places: Sequence[Place]) -> dict[str, Collection[LinkFacts]]:
    """Return the links that there are, by the label of their namespace."""
    return {place.label: place.links().values() for place in places}

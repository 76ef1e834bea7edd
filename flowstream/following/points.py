"""Observation points: links in one direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.following.places import Followed, LinkKey, Place
    from flowstream.host.links import LinkFacts
    from flowstream.kernel.link import Mode
    from flowstream.kernel.target import Target


class PointKey(NamedTuple):
    """A link of a run in one direction."""

    link: LinkKey
    direction: int


class Point(NamedTuple):
    """A link of a place in one direction (IPFIX 61), which can have one attachment."""

    place: Place
    link: LinkFacts
    direction: int

    @property
    def key(self) -> PointKey:
        """Key among the points of all places."""
        return PointKey(self.place.link_key(self.link), self.direction)

    @property
    def attachment_key(self) -> AttachmentKey:
        """Key of its attachment."""
        return self.place.attachment_key(self.link, self.direction)

    def named(self) -> dict[str, str | int]:
        """What a log record says of it."""
        return {**self.place.named(self.link), "direction": self.attachment_key.direction}

    def target(self, mode: Mode, sampling: int) -> Target:
        """Return what to attach to. KernelError when its packets or index cannot be recorded."""
        return self.place.target(self.link, self.direction, mode, sampling)


def attached(places: Iterable[Place]) -> Iterator[Point]:
    """Iterate over what is attached to."""
    for place in places:
        for its in place.followed.values():
            yield from attached_of(place, its)


def attached_of(place: Place, its: Followed) -> Iterator[Point]:
    """Iterate over the directions in which a link is attached to."""
    for direction in sorted(its.directions):
        yield Point(place, its.link, direction)

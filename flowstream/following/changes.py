"""What became of links that are attached to: other names, up or down, gone, left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from flowstream.following.points import attached_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.following.places import Place
    from flowstream.following.points import Point
    from flowstream.host.selection import Selection

log = structlog.get_logger()


class Renames(Protocol):
    """A run that knows the names of interfaces."""

    def rename(self, if_index: int, name: str) -> None:
        """Name an interface from now on."""


def note_changes(agent: Renames, places: Sequence[Place]) -> None:
    """Take in the present facts of links, and log those that an operator changes."""
    for place in places:
        for its, now in place.changes():
            if now.name != its.link.name:
                agent.rename(place.record_index(now), now.name)
                log.info("interface_renamed", **place.named(now), before=its.link.name)
            if now.up != its.link.up:
                log.info("interface_up" if now.up else "interface_down", **place.named(now))
            its.link = now


def leaving(places: Sequence[Place], selection: Selection) -> Iterator[Point]:
    """Attachments whose link went or is not chosen any more; logs each link."""
    for place in places:
        for its in [*place.followed.values()]:
            if place.has_left(its):
                log.info(
                    "interface_moved" if its.moved else "interface_gone", **place.named(its.link)
                )
            elif not selection.chooses(its.link):
                log.info("interface_left_out", **place.named(its.link))
            else:
                continue
            yield from attached_of(place, its)

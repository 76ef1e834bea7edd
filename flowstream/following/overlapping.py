"""Warns of attached interfaces that see the same packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowstream.errors import KernelError
from flowstream.host.links import netnsids
from flowstream.host.overlaps import Seen, overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.following.places import LinkKey, Place

log = structlog.get_logger()


class Overlapping:
    """Logs each interface that sees what others see too once, as long as it is attached.

    ``both``: received and sent packets are observed.
    """

    def __init__(self, *, both: bool) -> None:
        self._both = both
        self._last: list[Seen] = []
        self._known: set[LinkKey] = set()

    def look(self, places: Sequence[Place]) -> None:
        """Look at what is attached now; asks the kernel when that has changed."""
        several = len(places) > 1
        attached = [
            Seen(place.namespace.number, place.label if several else "", its.link)
            for place in places
            for its in place.followed.values()
        ]
        if attached == self._last:
            return
        self._last = attached
        by_number = {place.namespace.number: place for place in places}
        try:
            numbers = netnsids([(each.namespace, each.monitor) for each in places])
        except KernelError:
            # Of a namespace that has gone: a warning may be missing, nothing else.
            numbers = {}
        found = overlaps(attached, numbers, both=self._both)
        known, self._known = self._known, set()
        for each in found:
            place, link = by_number[each.interface.place], each.interface.link
            self._known.add(key := place.link_key(link))
            if key not in known:
                log.warning(
                    "interfaces_overlap",
                    **place.named(link),
                    overlap=each.text,
                    remedy=each.remedy,
                )

"""Gives attachments another sampling rate: a new program takes over the link."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import structlog

from flowstream.errors import KernelError
from flowstream.following.in_force import Attached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.following.attaching import Attaching
    from flowstream.following.places import Place
    from flowstream.following.thread import OwnThread
    from flowstream.host.links import LinkFacts
    from flowstream.pipeline.probe import Attachment

log = structlog.get_logger()


class Replaceable(Attached, Protocol):
    """The run whose attachments are replaced."""

    def replace(self, attachment: Attachment) -> None:
        """Take in an attachment that took over the link of another one."""


class Resampling:
    """Keeps attachments at the rate of ``attaching``; ``places`` has their links."""

    def __init__(
        self,
        agent: Replaceable,
        attaching: Attaching,
        places: Sequence[Place],
        thread: OwnThread,
    ) -> None:
        self._agent, self._attaching = agent, attaching
        self._places, self._thread = places, thread

    def outdated(self) -> Iterator[tuple[Place, LinkFacts]]:
        """Links that are attached to with another rate."""
        for place in self._places:
            for its in place.followed.values():
                if self._agent[its.key].sampling != self._attaching.sampling:
                    yield place, its.link

    async def next(self) -> bool:
        """Replace the program of one more link; return whether it was tried."""
        for place, link in self.outdated():
            if self._attaching.due(place, link) > time.monotonic():
                continue
            former = self._agent[place.attachment_key(link)]
            try:
                attachment = await self._thread.run(self._attaching.take_over, place, link, former)
            except KernelError as err:
                self._attaching.failed(place, link, err)
            else:
                self._agent.replace(attachment)
                log.info("resampled", **place.named(link), sampling=attachment.sampling)
            return True
        return False

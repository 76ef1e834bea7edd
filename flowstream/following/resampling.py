"""Gives attachments another sampling rate: a new program takes over the link."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import structlog

from flowstream.errors import KernelError
from flowstream.following.in_force import Attached
from flowstream.following.points import attached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.following.attaching import Attaching
    from flowstream.following.places import Place
    from flowstream.following.points import Point
    from flowstream.following.thread import OwnThread
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

    def outdated(self) -> Iterator[Point]:
        """What is attached to with another rate."""
        for point in attached(self._places):
            if self._agent[point.attachment_key].sampling != self._attaching.sampling:
                yield point

    async def next(self) -> bool:
        """Replace one more program; return whether it was tried."""
        for point in self.outdated():
            if self._attaching.due(point) > time.monotonic():
                continue
            former = self._agent[point.attachment_key]
            try:
                attachment = await self._thread.run(self._attaching.take_over, point, former)
            except KernelError as err:
                self._attaching.failed(point, err)
            else:
                self._agent.replace(attachment)
                log.info("resampled", **point.named(), sampling=attachment.sampling)
            return True
        return False

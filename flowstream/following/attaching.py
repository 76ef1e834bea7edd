"""Attaches to links, and knows when to try again one that refused."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.following.retries import Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowstream.errors import KernelError
    from flowstream.following.places import Place
    from flowstream.host.links import LinkFacts
    from flowstream.kernel.link import Mode
    from flowstream.pipeline.probe import Attaches, Attachment

# ENOLINK: of the link of an attachment.
_GONE: Final = (errno.ENODEV, errno.ENXIO, errno.ENOLINK)
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)

log = structlog.get_logger()


class Attaching:
    """Attaches with ``mode`` and ``sampling``; ``count_failed`` is called for each failure.

    A failure is logged once per link and reason, and tried again after growing pauses,
    at once when the link changes.
    """

    def __init__(
        self,
        attacher: Attaches,
        mode: Mode,
        sampling: int,
        count_failed: Callable[[], object],
    ) -> None:
        self._attacher = attacher
        self._mode, self.sampling = mode, sampling
        self._count_failed = count_failed
        self._retries = Retries()

    def attach(self, place: Place, link: LinkFacts) -> Attachment:
        """Attach to a link; blocks. KernelError when it is refused."""
        attachment = self._attacher.attach(place.target(link, self._mode, self.sampling))
        self._retries.forget(place.link_key(link))
        return attachment

    def take_over(self, place: Place, link: LinkFacts, former: Attachment) -> Attachment:
        """Take over the link of an attachment, with the present ``sampling``; blocks.

        KernelError when it is refused: then the former attachment goes on.
        """
        target = place.target(link, former.mode, self.sampling)
        attachment = self._attacher.attach(replace(target, link_fd=former.link_fd))
        self._retries.forget(place.link_key(link))
        return attachment

    def failed(self, place: Place, link: LinkFacts, err: KernelError) -> None:
        """Note that ``attach`` failed. That a link is gone is no error: its notice follows.

        In other network namespaces the first EINVAL may mean that.
        """
        key = place.link_key(link)
        gone = err.errno in _GONE or (
            err.errno == errno.EINVAL and place.may_go and not self._retries.has(key)
        )
        reason = "" if gone else str(err)
        if err.errno in _NO_DESCRIPTOR:
            reason += ": raise the limit of descriptors, by ulimit -Hn or LimitNOFILE="
        # Without privileges the same error may have fewer words: the name of a program.
        same = "" if gone else str(err.errno or err)
        new = self._retries.failed(key, link, same, time.monotonic())
        if gone:
            return
        self._count_failed()
        if new:
            log.warning("attach_failed", **place.named(link), error=reason)

    def displaced(self, place: Place, link: LinkFacts) -> None:
        """Note that another process took the program off a link: try again after a pause."""
        self._retries.failed(place.link_key(link), link, "", time.monotonic())

    def due(self, place: Place, link: LinkFacts) -> float:
        """Return the monotonic time from which on to try a link."""
        return self._retries.due(place.link_key(link), link)

    def keep(self, wanted: Iterable[tuple[Place, LinkFacts]]) -> None:
        """Forget the failures of all other links."""
        self._retries.keep({place.link_key(link) for place, link in wanted})

"""Attaches to links, and knows when to try again one that refused."""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from flowstream.errors import KernelError
from flowstream.following.retries import Retries
from flowstream.host import namespaces
from flowstream.kernel import libbpf
from flowstream.kernel.explain import is_own, named
from flowstream.kernel.link import TAKEN, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowstream.config.hooks import AttachModes
    from flowstream.following.points import Point, PointKey
    from flowstream.pipeline.probe import Attaches, Attachment

# ENOLINK: of the link of an attachment.
_GONE: Final = (errno.ENODEV, errno.ENXIO, errno.ENOLINK)
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)

log = structlog.get_logger()


class Made(NamedTuple):
    """An attachment; ``reason`` says why its mode is not the first of its direction, or ""."""

    attachment: Attachment
    reason: str


class Attaching:
    """Attaches with ``modes`` and ``sampling``; ``count_failed`` is called for each failure.

    The second of a direction's ``modes``, if there is one, is for links on which another
    program holds the hook of the first, unless it is an agent's. A failure is logged once
    per point and reason, and tried again after growing pauses, at once when the link changes.
    """

    def __init__(
        self,
        attacher: Attaches,
        modes: AttachModes,
        sampling: int,
        count_failed: Callable[[], object],
    ) -> None:
        self._attacher = attacher
        self._modes = {direction: [*map(Mode, each)] for direction, each in modes.items()}
        self.sampling = sampling
        self._count_failed = count_failed
        self._retries = Retries()
        self._agents: dict[PointKey, int] = {}

    @property
    def directions(self) -> tuple[int, ...]:
        """Directions that are observed."""
        return tuple(self._modes)

    def attach(self, point: Point) -> Made:
        """Attach to a link; blocks. KernelError when it is refused."""
        first, *others = self._modes[point.direction]
        reason = ""
        try:
            attachment = self._attacher.attach(point.target(first, self.sampling))
        except KernelError as err:
            if err.errno not in TAKEN or not others:
                raise
            held = _holder(point)
            if self._is_agents(point, held):
                raise
            reason = f"{named(held)} is attached"
            attachment = self._attacher.attach(point.target(others[0], self.sampling))
        self._retries.forget(point.key)
        return Made(attachment, reason)

    def _is_agents(self, point: Point, held: tuple[int, str] | None) -> bool:
        """Whether flowstream's own program holds a hook: packets would be published twice.

        Without privileges names cannot be read, nor what is in another network namespace.
        """
        known = self._agents.get(point.key)
        if held is None:
            return known is not None
        number, name = held
        if not is_own(name) and number != known:
            return False
        self._agents[point.key] = number
        return True

    def take_over(self, point: Point, former: Attachment) -> Attachment:
        """Take over the link of an attachment, with the present ``sampling``; blocks.

        KernelError when it is refused: then the former attachment goes on.
        """
        target = point.target(former.mode, self.sampling)
        attachment = self._attacher.attach(replace(target, link_fd=former.link_fd))
        self._retries.forget(point.key)
        return attachment

    def failed(self, point: Point, err: KernelError) -> None:
        """Note that ``attach`` failed. That a link is gone is no error: its notice follows.

        In other network namespaces the first EINVAL may mean that.
        """
        key = point.key
        gone = err.errno in _GONE or (
            err.errno == errno.EINVAL and point.place.may_go and not self._retries.has(key)
        )
        reason = "" if gone else str(err)
        if err.errno in _NO_DESCRIPTOR:
            reason += ": raise the limit of descriptors, by ulimit -Hn or LimitNOFILE="
        # Without privileges the same error may have fewer words: the name of a program.
        same = "" if gone else str(err.errno or err)
        new = self._retries.failed(key, point.link, same, time.monotonic())
        if gone:
            return
        self._count_failed()
        if new:
            log.warning("attach_failed", **point.named(), error=reason)

    def displaced(self, point: Point) -> None:
        """Note that another process took the program off a link: try again after a pause."""
        self._retries.failed(point.key, point.link, "", time.monotonic())

    def due(self, point: Point) -> float:
        """Return the monotonic time from which on to try to attach."""
        return self._retries.due(point.key, point.link)

    def keep(self, wanted: Iterable[Point]) -> None:
        """Forget the failures of all others."""
        keys = {point.key for point in wanted}
        self._retries.keep(keys)
        self._agents = {key: each for key, each in self._agents.items() if key in keys}


def _holder(point: Point) -> tuple[int, str] | None:
    """Id and name of the XDP program on a link, None where this process cannot tell."""
    with contextlib.suppress(KernelError, OSError), namespaces.inside(point.place.namespace.fd):
        return libbpf.attached_program(point.link.index)
    return None

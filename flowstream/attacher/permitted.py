"""Which network namespaces and links a request may name: those of the run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from flowstream.kernel import link as links
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowstream.attacher.leases import Leases
    from flowstream.kernel.run_pins import RunPins
    from flowstream.kernel.target import Target

_MOST_LINKS: Final = 1 << 16
"""Links that are remembered; far more than a host has interfaces."""


class Permitted:
    """What an agent that was taken over cannot go beyond.

    ``home`` is a descriptor of this process's namespace, ``namespaces`` are the inodes of
    those that are observed instead, if any. Other programs' links are refused, whoever
    handed over a descriptor of one: only those that this process made, or that are in
    ``pins`` or ``leases``.
    """

    def __init__(
        self,
        home: int,
        namespaces: Collection[int],
        pins: RunPins | None,
        leases: Leases | None = None,
    ) -> None:
        # An inode is unique among the namespaces of a kernel, which are one file system.
        self._device = os.fstat(home).st_dev
        self._namespaces = frozenset(namespaces)
        self._pins, self._leases = pins, leases
        self._links: dict[int, None] = {}

    def require(self, target: Target) -> None:
        """ValueError when a request is for something else; KernelError for a pin."""
        if target.netns_fd is None:
            observed = not self._namespaces
        else:
            status = os.fstat(target.netns_fd)
            observed = status.st_dev == self._device and status.st_ino in self._namespaces
        if not observed:
            raise ValueError("this network namespace is not observed")
        if target.link_fd is not None and not self._is_ours(target, target.link_fd):
            raise ValueError("this is no link of the run")

    def _is_ours(self, target: Target, fd: int) -> bool:
        if target.mode is Mode.CLSACT:
            return self._leases is not None and self._leases.has(target)
        number = links.number_of(fd)
        if target.earlier is None:
            return number in self._links
        if self._pins is None:
            return False
        pinned = self._pins.open_link(target.earlier)
        try:
            return number == links.number_of(pinned)
        finally:
            os.close(pinned)

    def remember(self, fd: int) -> None:
        """Permit a link from now on, which this process has made or taken over."""
        number = links.number_of(fd)
        self._links.pop(number, None)
        self._links[number] = None
        while len(self._links) > _MOST_LINKS:
            del self._links[next(iter(self._links))]

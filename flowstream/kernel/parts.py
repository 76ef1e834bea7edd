"""Descriptors of an attachment, on their way from the process that made them to the agent."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowstream.closing import Closing
from flowstream.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.kernel.link import Mode


class Parts(Closing):
    """Descriptors of a program that runs on an interface: program, link, then its own maps.

    ``mode`` is the mode in force. Whoever holds the link keeps the program there.
    ``not_first`` says what runs before it at its hook, or nothing.
    """

    def __init__(self, mode: Mode, fds: Sequence[int], not_first: str = "") -> None:
        self.mode, self.not_first = mode, not_first
        self.fds = list(fds)

    def release(self) -> list[int]:
        """Return the descriptors, which are the caller's from now on."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Close the descriptors that were not released; harmless twice."""
        for fd in self.release():
            os.close(fd)


@contextmanager
def owned(fds: Sequence[int], count: int) -> Iterator[list[int]]:
    """Close descriptors that are still in the list when the block raises.

    The block takes out those that it hands on. LayoutError unless there are ``count``.
    """
    left = list(fds)
    try:
        _require(left, count)
        yield left
    except BaseException:
        for fd in left:
            os.close(fd)
        raise


def _require(fds: Sequence[int], count: int) -> None:
    if len(fds) != count:
        raise LayoutError(f"an attachment of {len(fds)} descriptors, expected {count}")

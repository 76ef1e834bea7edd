"""What an attachment is made of, and how it is made in two steps, perhaps in two processes.

    parts = probe.creator.create(target)          # with privileges: maps, program, link
    attachment = probe.adopt(target, parts.mode, parts.release())    # without

A socket can hand over the descriptors in between, as ``flowstream.attacher`` does;
``attach_here`` does both in one process.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from flowstream.closing import Closing
from flowstream.errors import AttachError, LayoutError
from flowstream.kernel import explain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.kernel.creator import Creator
    from flowstream.kernel.link import Mode
    from flowstream.kernel.target import Target

Made_co = TypeVar("Made_co", covariant=True)


class Parts(Closing):
    """Descriptors of a program that runs on an interface: program, link, then its own maps.

    ``mode`` is the mode in force. Whoever holds the link keeps the program there.
    """

    def __init__(self, mode: Mode, fds: Sequence[int]) -> None:
        self.mode = mode
        self.fds = list(fds)

    def release(self) -> list[int]:
        """Return the descriptors, which are the caller's from now on."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Close the descriptors that were not released; harmless twice."""
        for fd in self.release():
            os.close(fd)


class Attachable(Protocol[Made_co]):
    """A probe, as far as attaching goes."""

    @property
    def creator(self) -> Creator:
        """Its part that needs privileges."""

    def adopt(self, target: Target, mode: Mode, fds: Sequence[int]) -> Made_co:
        """Return the attachment that ``creator`` has created, from its descriptors.

        Needs no privileges. Owns ``fds`` from the call on, also when it raises LayoutError
        because they are others.
        """


def attach_here(probe: Attachable[Made_co], target: Target) -> Made_co:
    """Create and adopt in this process; KernelError names the remedy."""
    try:
        parts = probe.creator.create(target)
    except AttachError as err:
        raise explain.explained(err, target.interface, target.if_index) from err
    return probe.adopt(target, parts.mode, parts.release())


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

"""Attaches in two steps, perhaps in two processes.

    parts = probe.creator.create(target)          # with privileges: maps, program, link
    attachment = probe.adopt(target, parts.mode, parts.release())    # without

A socket can hand over the descriptors in between, as ``flowstream.attacher`` does;
``attach_here`` does both in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from flowstream.errors import AttachError
from flowstream.kernel import explain, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kernel.creator import Creator
    from flowstream.kernel.link import Mode
    from flowstream.kernel.target import Target

Made_co = TypeVar("Made_co", covariant=True)


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
        raise explain.explained(err, target, features.missing_capabilities()) from err
    return probe.adopt(target, parts.mode, parts.release())

"""What keeps a program on a target's interface: made by the privileged process, then adopted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.kernel.link import Link
from flowstream.kernel.stages import Stage, at

if TYPE_CHECKING:
    from flowstream.kernel.link import Mode
    from flowstream.kernel.target import Target


def linked(program_fd: int, target: Target) -> Link:
    """Attach a program to ``target``, or give it to the link that ``target`` has. AttachError."""
    index, mode, direction = target.if_index, target.mode, target.direction
    with at(Stage.ATTACHING, mode):
        if target.link_fd is None:
            return Link(program_fd, index, mode, direction)
        return Link.take_over(target.link_fd, program_fd, index, mode, direction)


def adopted(fd: int, target: Target, mode: Mode) -> Link:
    """Return what ``linked`` has made, in the mode that is in force, by its descriptor.

    Needs no privileges. Owns ``fd`` from the call on, also when it raises.
    """
    return Link.from_fd(fd, target.if_index, mode, target.direction)

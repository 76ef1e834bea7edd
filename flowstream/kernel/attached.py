"""What keeps a program on a target's interface: made by the privileged process, then adopted.

That is a link, or, at the TC hook of kernels without TCX, the lease of a filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.errors import KernelError
from flowstream.kernel import features, lease
from flowstream.kernel import link as links
from flowstream.kernel.lease import Lease
from flowstream.kernel.link import Hook, Link, Mode
from flowstream.kernel.stages import Stage, at

if TYPE_CHECKING:
    from flowstream.kernel.target import Target


Attached = Link | Lease


class Lessor(Protocol):
    """Keeps filters for another process."""

    def grant(self, program_fd: int, target: Target) -> Lease:
        """Add a filter, or give that of ``target`` another program; KernelError."""


def linked(program_fd: int, target: Target, lessor: Lessor | None = None) -> Attached:
    """Attach a program to ``target``, or give it to the link that ``target`` has. AttachError."""
    index, mode, direction = target.if_index, target.mode, target.direction
    if needs_lease(target):
        with at(Stage.ATTACHING, Mode.CLSACT):
            if lessor is None:
                raise KernelError("only an attacher keeps filters")
            return lessor.grant(program_fd, target)
    with at(Stage.ATTACHING, mode):
        if target.link_fd is None:
            return Link(program_fd, index, mode, direction)
        return Link.take_over(target.link_fd, program_fd, index, mode, direction)


def needs_lease(target: Target) -> bool:
    """Whether the program of ``target`` is to run by a filter."""
    return target.mode.hook is Hook.TC and not features.has_tcx()


def adopted(fd: int, target: Target, mode: Mode) -> Attached:
    """Return what ``linked`` has made, in the mode that is in force, by its descriptor.

    Needs no privileges. Owns ``fd`` from the call on, also when it raises.
    """
    if mode is Mode.CLSACT:
        return Lease.from_fd(fd, target.if_index)
    return Link.from_fd(fd, target.if_index, mode, target.direction)


def program_in_force(fd: int) -> int:
    """Return the number of the program that runs by what is behind ``fd``, 0 for none.

    Needs no privileges. Another process can have replaced the program or detached it.
    """
    return lease.program_in_force(fd) if lease.is_lease(fd) else links.program_in_force(fd)

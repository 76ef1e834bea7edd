"""The interface between the agent and a kernel program with its maps.

A probe is such a program; an attachment is a probe on one interface in one direction. The agent
knows probes by these protocols alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from flowstream.accounting.books import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.books import AttachMode
    from flowstream.kernel.creator import Creator
    from flowstream.kernel.link import Mode
    from flowstream.kernel.target import Target
    from flowstream.streams import Stream


class Wakeups(Protocol):
    """A ring whose records only wake the agent."""

    @property
    def fd(self) -> int:
        """Descriptor that is readable while there are wake-ups."""

    def read(self, most: int) -> NDArray[np.void]:
        """Take up to ``most`` wake-ups out."""


class Ring(Protocol):
    """A ring buffer of flow records."""

    @property
    def fd(self) -> int:
        """Descriptor that is readable while there are records."""

    @property
    def stream(self) -> Stream:
        """Stream that its records belong to."""

    @property
    def name(self) -> str:
        """Name of the ring buffer's map."""

    @property
    def size(self) -> int:
        """Octets that it holds."""

    @property
    def produced(self) -> int:
        """Octets that the kernel has written since the ring was created."""

    @property
    def consumed(self) -> int:
        """Octets that were read since the ring was created."""

    def read(self, most: int) -> NDArray[np.void]:
        """Take up to ``most`` records out: dtype FLOW_RECORD, shape (n,)."""


class LoadedProgram(Protocol):
    """A program that the kernel has loaded."""

    @property
    def id(self) -> int:
        """Its number in the kernel."""

    @property
    def name(self) -> str:
        """Its name in the kernel."""


class Attachment(Protocol):
    """A probe on one interface in one direction."""

    @property
    def interface(self) -> str:
        """Name of the interface."""

    @property
    def key(self) -> AttachmentKey:
        """Index of the interface and direction."""

    @property
    def mode(self) -> Mode:
        """Attach mode in force, never AUTO."""

    @property
    def sampling(self) -> int:
        """One packet in so many is read."""

    @property
    def link_fd(self) -> int:
        """Descriptor of its link, for a ``Target`` that takes it over; -1 once detached."""

    @property
    def counters_id(self) -> int:
        """Number of its counters in the kernel: those of an attachment that continues another."""

    @property
    def program(self) -> LoadedProgram:
        """The program that runs there."""

    @property
    def rings(self) -> Sequence[Ring]:
        """Ring buffers of this attachment alone."""

    def counters(self) -> KernelCounts:
        """Read what the program counted."""

    def let_go(self) -> None:
        """Give up the link without waiting: others have it, or it cannot be detached."""

    def detach(self) -> None:
        """Take the program off the interface; counters and rings can still be read."""

    def unpin(self) -> None:
        """Let go of counters that stay when the process ends: they are noted elsewhere."""

    def close(self) -> None:
        """Release everything, and detach unless it stays when the process ends."""


class Attaches(Protocol):
    """What attaches, with privileges that this process need not have."""

    def attach(self, target: Target) -> Attachment:
        """Attach to a target; blocks. KernelError names the remedy."""


class Probe(Protocol):
    """A kernel program with the maps that its attachments share."""

    @property
    def max_flows(self) -> int:
        """Capacity of a table."""

    @property
    def swaps(self) -> int:
        """How often the tables were swapped."""

    @property
    def rings(self) -> Sequence[Ring]:
        """Ring buffers that all attachments share."""

    @property
    def wakeups(self) -> Wakeups | None:
        """Ring that is readable when the active table is nearly full."""

    @property
    def creator(self) -> Creator:
        """Its part that needs privileges."""

    def adopt(self, target: Target, mode: Mode, fds: Sequence[int]) -> Attachment:
        """Return the attachment that was created, from its descriptors."""

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Swap the flow tables and drain the one that was active; blocks."""

    def stop(self) -> None:
        """Let programs that could not be detached count nothing any more, if it can."""

    def table_entries(self) -> int:
        """Approximate number of entries in the active table."""

    def close(self) -> None:
        """Release everything."""


def facts(
    attachment: Attachment, interface: str, netns: str = "", previous_epoch: int = 0
) -> Facts:
    """Return what counters records and a next run say of an attachment."""
    program = attachment.program
    return Facts(
        interface,
        netns=netns,
        mode=cast("AttachMode", attachment.mode.value),
        program_id=program.id,
        program_name=program.name,
        sampling=attachment.sampling,
        previous_epoch=previous_epoch,
    )

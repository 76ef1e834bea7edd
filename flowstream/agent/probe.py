"""What a kernel program is to the agent: attached to interfaces, drained, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.accounting.counters import Counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.agent.pipeline import Ring
    from flowstream.kernel.link import Mode
    from flowstream.kernel.ringbuf import RingBuffer


class Attached(Counted, Protocol):
    """A program on an interface."""

    @property
    def rings(self) -> Sequence[Ring]:
        """Ring buffers of this interface alone."""

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read."""

    def close(self) -> None:
        """Detach and give everything back."""


class Capture(Protocol):
    """A kernel program with its maps, shared by all interfaces that it is attached to."""

    @property
    def max_flows(self) -> int:
        """Capacity of a table."""

    @property
    def swaps(self) -> int:
        """How often the tables were swapped."""

    @property
    def rings(self) -> Sequence[Ring]:
        """Ring buffers of all interfaces together."""

    @property
    def wakeups(self) -> RingBuffer | None:
        """Readable when the active table is about to be full."""

    def attach(self, interface: str, mode: Mode) -> Attached:
        """Attach to an interface."""

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Swap the flow tables and drain the one that was active; blocks."""

    def table_entries(self) -> int:
        """Entries in the active table, about."""

    def close(self) -> None:
        """Give everything back."""

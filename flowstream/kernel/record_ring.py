"""A ring buffer as the agent reads it: flow records of one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowstream.kernel import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.snapshot import Moment
    from flowstream.kernel.ringbuf import RingBuffer
    from flowstream.streams import Stream


class RecordRing:
    """A ring buffer whose contents become flow records as they are read.

    ``convert`` makes records of shape (n,) and dtype FLOW_RECORD of n entries and the
    present time. ``raw`` is the ring buffer, which stays the caller's.
    """

    def __init__(
        self,
        ring: RingBuffer,
        stream: Stream,
        convert: Callable[[NDArray[Any], Moment], NDArray[np.void]],
    ) -> None:
        self.raw, self.stream = ring, stream
        self._convert = convert

    @property
    def fd(self) -> int:
        """Descriptor that is readable when records wait; -1 once the ring is closed."""
        return self.raw.fd

    @property
    def name(self) -> str:
        """Name of the ring buffer's map."""
        return self.raw.name

    @property
    def size(self) -> int:
        """Octets that it holds."""
        return self.raw.size

    @property
    def produced(self) -> int:
        """Octets that the kernel has written since the ring was created."""
        return self.raw.produced

    @property
    def consumed(self) -> int:
        """Octets that were read since the ring was created."""
        return self.raw.consumed

    def read(self, most: int) -> NDArray[np.void]:
        """Take up to ``most`` records out, shape (n,)."""
        return self._convert(self.raw.read(most), clock.now())

"""Builds binary values of different lengths out of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW_BITS: Final = np.uint64(0x7F)


def varint(value: int) -> bytes:
    """Encode one number of 0 or more."""
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


class ValueBuilder:
    """``count`` values that grow to the right, column by column."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._cells: list[NDArray[np.uint8]] = []
        self._present: list[NDArray[np.bool_]] = []

    def add(self, cells: NDArray[np.uint8], present: NDArray[np.bool_] | bool = True) -> None:
        """Append octets of shape (n, width), (1, width) or (width,).

        ``present`` says which are part of the values; it may have shape (n, 1).
        """
        shape = (self._count, cells.shape[-1])
        self._cells.append(np.broadcast_to(cells, shape))
        self._present.append(np.broadcast_to(present, shape))

    def add_varints(
        self, numbers: NDArray[np.uint64], tag: NDArray[np.uint8] | None = None
    ) -> None:
        """Append numbers of shape (n,) as base-128 varints.

        With a ``tag`` (Protobuf) it stands before each number, and a zero is
        left out with its tag; without one (Avro) a zero is one octet.
        """
        largest = int(numbers.max())
        if (numbers == largest).all():
            if largest or tag is None:
                same = np.frombuffer(varint(largest), np.uint8)
                self.add(same if tag is None else np.concatenate((tag, same)))
            return
        # Most numbers need few octets: there are only as many cells as the largest needs.
        shifts = np.arange(0, largest.bit_length(), 7, dtype=np.uint64)
        shifted = numbers[:, None] >> shifts
        present = shifted != 0
        cells = (shifted & _LOW_BITS).astype(np.uint8)
        # The high bit says that another octet follows.
        cells[:, :-1] |= present[:, 1:].view(np.uint8) << 7
        if tag is None:
            present[:, 0] = True
        else:
            self.add(tag, present[:, :1])
        self.add(cells, present)

    def values(self) -> list[bytes]:
        """Each value as bytes."""
        present = np.concatenate(self._present, axis=1)
        octets = np.concatenate(self._cells, axis=1)[present].tobytes()
        ends = np.cumsum(np.count_nonzero(present, axis=1)).tolist()
        starts = [0, *ends[:-1]]
        return [octets[start:end] for start, end in zip(starts, ends, strict=bool(ends))]

    def sized_values(self) -> list[bytes]:
        """Each value as bytes, with a varint of its length before it."""
        present = np.concatenate(self._present, axis=1)
        sized = ValueBuilder(self._count)
        sized.add_varints(np.count_nonzero(present, axis=1).astype(np.uint64))
        sized.add(np.concatenate(self._cells, axis=1), present)
        return sized.values()


def bytes_of(cells: NDArray[np.uint8]) -> list[bytes]:
    """Each element of shape (n, width) as bytes."""
    width = cells.shape[1]
    values: list[bytes] = np.ascontiguousarray(cells).view(f"V{width}").ravel().tolist()
    return values

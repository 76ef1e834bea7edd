"""Builds binary values of different lengths out of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW_BITS: Final = np.uint64(0x7F)
# Octets of the varint of a value's length: no record reaches 2 MiB.
_LENGTH_OCTETS: Final = 3


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
        self._columns: list[tuple[NDArray[np.uint8], NDArray[np.bool_] | bool]] = []

    def add(self, cells: NDArray[np.uint8], present: NDArray[np.bool_] | bool = True) -> None:
        """Append octets of shape (n, width), (1, width) or (width,).

        ``present`` says which are part of the values; it may have shape (n, 1).
        """
        if self._columns and present is True and cells.ndim == 1:
            # Every column has its cost: constant ones are joined.
            before, others = self._columns[-1]
            if others is True and before.ndim == 1:
                self._columns[-1] = np.concatenate((before, cells)), True
                return
        self._columns.append((cells, present))

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
        cells, present = self._table()
        return _cut(cells, present, np.count_nonzero(present, axis=1))

    def sized_values(self) -> list[bytes]:
        """Each value as bytes, with a varint of its length before it."""
        cells, present = self._table(_LENGTH_OCTETS)
        lengths = np.count_nonzero(present[:, _LENGTH_OCTETS:], axis=1)
        for place in range(_LENGTH_OCTETS):
            rest = lengths >> 7 * place
            cells[:, place] = rest & 0x7F | (rest > 0x7F) << 7
            present[:, place] = rest > 0 if place else True
        return _cut(cells, present, np.count_nonzero(present, axis=1))

    def _table(self, left: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """All columns side by side, to the right of ``left`` others that are not filled."""
        width = left + sum(cells.shape[-1] for cells, _ in self._columns)
        table = np.empty((self._count, width), np.uint8)
        table_present = np.empty((self._count, width), np.bool_)
        for cells, present in self._columns:
            right = left + cells.shape[-1]
            table[:, left:right] = cells
            table_present[:, left:right] = present
            left = right
        return table, table_present


def _cut(
    cells: NDArray[np.uint8], present: NDArray[np.bool_], lengths: NDArray[np.intp]
) -> list[bytes]:
    octets = cells[present].tobytes()
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    return [octets[start:end] for start, end in zip(starts, ends, strict=bool(ends))]


def bytes_of(cells: NDArray[np.uint8]) -> list[bytes]:
    """Each element of shape (n, width) as bytes."""
    width = cells.shape[1]
    values: list[bytes] = np.ascontiguousarray(cells).view(f"V{width}").ravel().tolist()
    return values

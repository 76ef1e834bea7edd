"""Which sequence numbers were seen: a set of integers that costs a bit each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_CHUNK_BITS: Final = 15
_CHUNK: Final = 1 << _CHUNK_BITS


class SeqSet:
    """A set of unsigned 64-bit numbers that come nearly dense and in any order.

    A bitmap in chunks of 32,768 numbers (4 KiB): a stray number far away costs
    one chunk, so memory is bounded by the numbers added.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, NDArray[np.uint8]] = {}
        self.count = 0
        """Different numbers seen."""
        self.duplicates = 0
        """Numbers that came again."""
        self.lowest: int | None = None
        self.highest: int | None = None
        """Smallest and largest number seen, None before the first."""

    def add(self, seqs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add numbers, shape (n,); give shape (n,): which of them had not been seen before."""
        fresh = np.zeros(len(seqs), np.bool_)
        if not len(seqs):
            return fresh
        numbers, first = np.unique(seqs, return_index=True)
        which = (numbers >> np.uint64(_CHUNK_BITS)).astype(np.int64)
        starts = np.flatnonzero(np.diff(which, prepend=which[0] - 1))
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            inside = (numbers[start:end] & np.uint64(_CHUNK - 1)).astype(np.int64)
            fresh[first[start:end]] = self._add_to_chunk(int(which[start]), inside)
        new = int(np.count_nonzero(fresh))
        self.count += new
        self.duplicates += len(seqs) - new
        low, high = int(numbers[0]), int(numbers[-1])
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)
        return fresh

    def _add_to_chunk(self, chunk: int, inside: NDArray[np.int64]) -> NDArray[np.bool_]:
        packed = self._chunks.get(chunk)
        bits = np.zeros(_CHUNK, np.uint8) if packed is None else np.unpackbits(packed)
        new: NDArray[np.bool_] = bits[inside] == 0
        bits[inside] = 1
        self._chunks[chunk] = np.packbits(bits)
        return new

    def missing(self, end: int) -> int:
        """How many numbers below ``end`` were not seen."""
        if self.highest is None or self.highest < end:
            return end - self.count
        return sum(last - first + 1 for first, last in self.gaps(end))

    def gaps(self, end: int) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) below ``end`` that were not seen, in order."""
        expected = 0
        for first, last in self._runs():
            if first >= end:
                break
            if first > expected:
                yield expected, first - 1
            expected = last + 1
        if expected < end:
            yield expected, end - 1

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) that were seen, in order, each within one chunk."""
        for chunk in sorted(self._chunks):
            bits = np.unpackbits(self._chunks[chunk]).astype(np.int8)
            edges = np.flatnonzero(np.diff(bits, prepend=0, append=0))
            base = chunk << _CHUNK_BITS
            for first, after in edges.reshape(-1, 2).tolist():
                yield base + first, base + after - 1

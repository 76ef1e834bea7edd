"""Sets of sequence numbers: a bit per number where they are dense, a few octets elsewhere."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_CHUNK_BITS: Final = 15
_CHUNK: Final = 1 << _CHUNK_BITS
_DENSE: Final = 256
"""Numbers from which on a chunk gets a bitmap: 4 KiB, at most 16 octets a number."""


class SeqSet:
    """A set of unsigned 64-bit numbers that arrive mostly dense and in any order.

    Chunks of 32,768 numbers are bitmaps where they are dense. All other numbers
    stand in sorted arrays, 8 octets each. An array is merged with the one before
    it once that is less than twice as long, so there are few of them and a number
    is moved only a logarithmic number of times. Memory is at most some 16 octets a
    number.
    """

    __slots__ = ("_bitmaps", "_sparse", "count", "duplicates", "highest", "lowest")

    def __init__(self) -> None:
        self._bitmaps: dict[int, NDArray[np.uint8]] = {}
        self._sparse: list[NDArray[np.uint64]] = []
        self.count = 0
        """Distinct numbers seen."""
        self.duplicates = 0
        """Numbers seen again."""
        self.lowest: int | None = None
        self.highest: int | None = None
        """Smallest and largest number seen, None before the first."""

    def add(self, seqs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add numbers of shape (n,); return shape (n,): True for each number not seen before."""
        fresh = np.zeros(len(seqs), np.bool_)
        if not len(seqs):
            return fresh
        numbers, first = np.unique(seqs, return_index=True)
        new = self._add_distinct(numbers)
        fresh[first] = new
        count = int(np.count_nonzero(new))
        self.count += count
        self.duplicates += len(seqs) - count
        low, high = int(numbers[0]), int(numbers[-1])
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)
        return fresh

    def _add_distinct(self, numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add sorted distinct numbers; return which of them are new."""
        new = np.ones(len(numbers), np.bool_)
        for array in self._sparse:
            at = np.minimum(np.searchsorted(array, numbers), len(array) - 1)
            new &= array[at] != numbers
        sparse = new.copy()
        for chunk, start, end in zip(*_chunks(numbers), strict=True):
            if chunk in self._bitmaps:
                new[start:end] &= self._set(chunk, numbers[start:end])
                sparse[start:end] = False
        self._keep_sparse(numbers[sparse])
        return new

    def _set(self, chunk: int, numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Set the bits of distinct numbers of one chunk; return which of them were not set."""
        if chunk not in self._bitmaps:
            self._bitmaps[chunk] = np.zeros(_CHUNK // 8, np.uint8)
        bitmap = self._bitmaps[chunk]
        inside = (numbers & np.uint64(_CHUNK - 1)).astype(np.intp)
        octets, bits = inside >> 3, np.left_shift(1, inside & 7).astype(np.uint8)
        unset: NDArray[np.bool_] = (bitmap[octets] & bits) == 0
        np.bitwise_or.at(bitmap, octets, bits)
        return unset

    def _keep_sparse(self, numbers: NDArray[np.uint64]) -> None:
        while self._sparse and len(self._sparse[-1]) < 2 * len(numbers):
            # Stable sorting merges two sorted runs in linear time.
            numbers = np.sort(np.concatenate((self._sparse.pop(), numbers)), kind="stable")
        numbers = self._without_dense(numbers)
        if len(numbers):
            self._sparse.append(numbers)

    def _without_dense(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Move the dense chunks of sorted numbers to bitmaps; return the others."""
        if len(numbers) < _DENSE:
            return numbers
        stays = np.ones(len(numbers), np.bool_)
        for chunk, start, end in zip(*_chunks(numbers, at_least=_DENSE), strict=True):
            self._set(chunk, numbers[start:end])
            stays[start:end] = False
        return numbers[stays]

    def missing(self, end: int) -> int:
        """How many numbers below ``end`` were not seen."""
        if self.highest is None or self.highest < end:
            return end - self.count
        return sum(last - first + 1 for first, last in self.gaps(end))

    def gaps(self, end: int) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) below ``end`` that were not seen, in order."""
        expected = 0
        for first, last in self._ranges():
            if first >= end:
                break
            if first > expected:
                yield expected, first - 1
            expected = last + 1
        if expected < end:
            yield expected, end - 1

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges (first, last) that were seen, in order; neighbours may touch."""
        self._settle()
        return heapq.merge(self._dense_ranges(), self._sparse_ranges())

    def _settle(self) -> None:
        """Make one array of the sparse numbers, without those of chunks that have a bitmap."""
        numbers = np.sort(np.concatenate([np.empty(0, np.uint64), *self._sparse]))
        stays = np.ones(len(numbers), np.bool_)
        for chunk, start, end in zip(*_chunks(numbers), strict=True):
            if chunk in self._bitmaps:
                self._set(chunk, numbers[start:end])
                stays[start:end] = False
        self._sparse = [numbers[stays]] if stays.any() else []

    def _dense_ranges(self) -> Iterator[tuple[int, int]]:
        for chunk in sorted(self._bitmaps):
            bits = np.unpackbits(self._bitmaps[chunk], bitorder="little").view(np.int8)
            edges = np.flatnonzero(np.diff(bits, prepend=0, append=0))
            base = chunk << _CHUNK_BITS
            for first, after in edges.reshape(-1, 2).tolist():
                yield base + first, base + after - 1

    def _sparse_ranges(self) -> Iterator[tuple[int, int]]:
        for numbers in self._sparse:
            for start in range(0, len(numbers), _CHUNK):
                yield from (
                    (number, number) for number in numbers[start : start + _CHUNK].tolist()
                )


def _chunks(
    numbers: NDArray[np.uint64], at_least: int = 1
) -> tuple[list[int], list[int], list[int]]:
    """Chunks with ``at_least`` so many of the sorted numbers: which, where it starts and ends."""
    which = numbers >> np.uint64(_CHUNK_BITS)
    starts = np.flatnonzero(np.concatenate(([True], which[1:] != which[:-1]))[: len(which)])
    ends = np.append(starts[1:], len(which))
    kept = ends - starts >= at_least
    return which[starts[kept]].tolist(), starts[kept].tolist(), ends[kept].tolist()

"""Sums by key in bounded memory: the smallest are put together as "others"."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

AMOUNTS: Final = ("l2_bytes", "packets", "records", "new_flows")
"""What a table sums, in this order: frame octets, packets, flow records, announced flows."""
OTHERS: Final = b""
"""Key of the sums of all keys that were evicted."""
_FIRST_ROWS: Final = 1_024


class TableSums(NamedTuple):
    """The keys of a table, ``OTHERS`` first, and their sums, in all and of late.

    The shape of the sums is (amounts, keys). ``evicted`` counts evictions.
    """

    keys: list[bytes]
    total: NDArray[np.uint64]
    late: NDArray[np.uint64]
    evicted: int


class _Rows(dict[bytes, int]):
    """Row of each key; a new key gets the next row."""

    def __missing__(self, key: bytes) -> int:
        row = self[key] = len(self)
        return row


class Table:
    """Sums of amounts by key, since the beginning and since a mark.

    When it has more than twice ``most`` keys, the ``most`` that have the largest share of any
    amount stay; a key that comes back begins anew. ``marks`` is the number of earlier moments
    that are kept, the beginning included; sums "of late" begin at the oldest.
    """

    def __init__(self, most: int, marks: int) -> None:
        self._most = most
        self._rows = _Rows({OTHERS: 0})
        self._sums = np.zeros((len(AMOUNTS), _FIRST_ROWS), np.uint64)
        # The sums at each mark; the beginning is one.
        self._marks = deque([self._sums[:, :1].copy()], marks)
        self._evicted = 0

    def add(self, keys: Sequence[bytes], amounts: Sequence[NDArray[np.uint64]]) -> None:
        """Add ``amounts``, an array parallel to ``keys`` for each of ``AMOUNTS``."""
        rows = np.fromiter(map(self._rows.__getitem__, keys), np.intp, len(keys))
        while len(self._rows) > self._sums.shape[1]:
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=1)
        for sums, each in zip(self._sums, amounts, strict=True):
            np.add.at(sums, rows, each)
        if len(self._rows) > 2 * self._most:
            self._evict()

    def mark(self) -> None:
        """Keep the sums of this moment; drop the oldest mark when there are enough."""
        self._marks.append(self._sums[:, : len(self._rows)].copy())

    def sums(self) -> TableSums:
        """Return the present sums, which later ones do not change."""
        sums = self._sums[:, : len(self._rows)]
        late = sums - _padded(self._marks[0], len(self._rows))
        return TableSums(list(self._rows), sums.copy(), late, self._evicted)

    def _evict(self) -> None:
        keys, sums, *_ = self.sums()
        shares = sums[:, 1:] / np.maximum(sums[:, 1:].sum(axis=1, keepdims=True), 1)
        order = np.argpartition(shares.max(axis=0), -self._most) + 1
        kept, gone = np.sort(order[-self._most :]), order[: -self._most]
        self._rows = _Rows({OTHERS: 0} | {keys[row]: n for n, row in enumerate(kept.tolist(), 1)})
        self._sums = _reduced(sums, kept, gone)
        self._marks = deque(
            (_reduced(_padded(mark, len(keys)), kept, gone) for mark in self._marks),
            self._marks.maxlen,
        )
        self._evicted += len(gone)


def _padded(sums: NDArray[np.uint64], keys: int) -> NDArray[np.uint64]:
    """Sums of a moment at which there were fewer keys."""
    return np.pad(sums, ((0, 0), (0, keys - sums.shape[1])))


def _reduced(
    sums: NDArray[np.uint64], kept: NDArray[np.intp], gone: NDArray[np.intp]
) -> NDArray[np.uint64]:
    others = sums[:, :1] + sums[:, gone].sum(axis=1, keepdims=True)
    return np.concatenate([others, sums[:, kept]], axis=1)

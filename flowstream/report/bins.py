"""Amounts over time in bins whose width follows the range, and counts in geometric bins."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BINS: Final = 400
_MS, _S = 10**6, 10**9
_MINUTE, _HOUR, _DAY = 60 * _S, 3_600 * _S, 86_400 * _S
# Each divides the next, so that bins can be joined.
_WIDTHS: Final = (
    *(n * _MS for n in (1, 5, 10, 50, 100, 500)),
    *(n * _S for n in (1, 5, 10, 30)),
    *(n * _MINUTE for n in (1, 5, 10, 30)),
    *(n * _HOUR for n in (1, 3, 6, 12)),
    *(n * _DAY for n in (1, 5, 10, 50, 100, 500)),
)


class Series(NamedTuple):
    """Amounts in bins of ``width_ns``, from ``start_ns`` on: shape (groups, bins)."""

    start_ns: int
    width_ns: int
    amounts: NDArray[np.float64]


class TimeBins:
    """Amounts of some groups over time, at most ``MOST_BINS`` bins in memory.

    Bins begin at multiples of their width, which grows from 1 ms as the range of time does.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._width = _WIDTHS[0]
        self._first = 0
        """Number of the first bin, counted from the epoch."""
        self._amounts = np.zeros((groups, MOST_BINS))
        self.range_ns: tuple[int, int] | None = None
        """First and last time of an amount, None without any."""

    def add(
        self,
        group: NDArray[np.intp],
        amount: NDArray[np.float64],
        start_ns: NDArray[np.uint64],
        end_ns: NDArray[np.uint64],
    ) -> None:
        """Add amounts, each spread evenly from its start to its end; all of shape (n,)."""
        if not len(group):
            return
        end_ns = np.maximum(start_ns, end_ns)
        self._fit(int(start_ns.min()), int(end_ns.max()))
        first = (start_ns // np.uint64(self._width)).astype(np.intp) - self._first
        last = (end_ns // np.uint64(self._width)).astype(np.intp) - self._first
        inside = first == last
        self._amounts += self._in_bins(group[inside], first[inside], amount[inside])
        over = ~inside
        if over.any():
            self._spread(group[over], amount[over], start_ns[over], end_ns[over])

    def series(self) -> Series:
        """Return the bins from the first to the last with a time in it; none without any."""
        if self.range_ns is None:
            return Series(0, self._width, np.zeros((self._groups, 0)))
        first, last = (time // self._width for time in self.range_ns)
        part = slice(first - self._first, last - self._first + 1)
        return Series(first * self._width, self._width, self._amounts[:, part])

    def _spread(
        self,
        group: NDArray[np.intp],
        amount: NDArray[np.float64],
        start_ns: NDArray[np.uint64],
        end_ns: NDArray[np.uint64],
    ) -> None:
        """Add amounts over several bins: parts in the first and the last, a rate in between."""
        width = np.uint64(self._width)
        first, last = start_ns // width, end_ns // width
        rate = amount / (end_ns - start_ns)
        begin, end = first.astype(np.intp) - self._first, last.astype(np.intp) - self._first
        self._amounts += self._in_bins(
            group, begin, rate * ((first + np.uint64(1)) * width - start_ns)
        )
        self._amounts += self._in_bins(group, end, rate * (end_ns - last * width))
        # Between them the rate begins in one bin and ends in another: sums over the bins so far.
        between = end - begin > 1
        group, begin, end = group[between], begin[between], end[between]
        full = rate[between] * self._width
        edges = self._in_bins(group, begin + 1, full) - self._in_bins(group, end, full)
        # Differences of large numbers leave traces where there is nothing.
        self._amounts += np.maximum(np.cumsum(edges, axis=1).round(6), 0)

    def _in_bins(
        self, group: NDArray[np.intp], place: NDArray[np.intp], amount: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        found = np.bincount(
            group * MOST_BINS + place, weights=amount, minlength=self._groups * MOST_BINS
        )
        return found.astype(float, copy=False).reshape(self._groups, MOST_BINS)

    def _fit(self, low_ns: int, high_ns: int) -> None:
        """Let the bins reach over these times too, by joining and moving them."""
        known = self.range_ns or (low_ns, high_ns)
        low_ns, high_ns = self.range_ns = min(low_ns, known[0]), max(high_ns, known[1])
        width = next(
            width
            for width in _WIDTHS
            if width >= self._width and high_ns // width - low_ns // width < MOST_BINS
        )
        first = low_ns // width
        last = high_ns // width
        if width == self._width and self._first <= first and last - self._first < MOST_BINS:
            return
        places = (np.arange(MOST_BINS) + self._first) * self._width // width - first
        held = (places >= 0) & (places < MOST_BINS)
        moved = np.zeros_like(self._amounts)
        np.add.at(moved.T, places[held], self._amounts.T[held])
        self._width, self._first, self._amounts = width, first, moved


def edges_1_2_5(first: int, count: int) -> NDArray[np.float64]:
    """Edges 1, 2, 5 times powers of ten, from 10**first on."""
    steps = [
        float(f"{step}e{power}") for power, step in product(range(first, first + count), (1, 2, 5))
    ]
    return np.array(steps)


def counts_between(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Count values below the first edge, between each two, and from the last edge on."""
    places = np.searchsorted(edges, values, side="right")
    return np.bincount(places, minlength=len(edges) + 1)

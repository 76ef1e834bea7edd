"""Distributions of durations, counted many values at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


DURATIONS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bounds for durations of work: half a millisecond to half a minute."""
LATENCIES: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0),
)
"""Bounds for the age of records; the usual --interval makes most up to 5 s old."""


class Distribution(NamedTuple):
    """Numbers of values up to each of ``bounds`` (seconds) and of all, and their sum."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    sum: float


class Histogram:
    """Counts of values up to each of ``bounds`` (ascending, seconds), and their sum.

    For use from one thread.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._sum = tuple(bounds), 0.0
        self._edges = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.observe_all(np.array([seconds]))

    def observe_all(self, seconds: NDArray[np.float64]) -> None:
        """Count values, shape (n,)."""
        places = np.searchsorted(self._edges, seconds, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(seconds.sum())

    def distribution(self) -> Distribution:
        """Return what was counted so far."""
        return Distribution(self._bounds, tuple(np.cumsum(self._counts).tolist()), self._sum)

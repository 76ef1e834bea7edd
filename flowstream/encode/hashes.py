"""64-bit hashes of columns; anyone can choose inputs that collide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Multipliers of splitmix64's finalizer (Steele, Lea, Flood: "Fast splittable
# pseudorandom number generators", 2014, as in java.util.SplittableRandom).
MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
MIX_2: Final = np.uint64(0x94D049BB133111EB)


def hashes_of(columns: Sequence[NDArray[Any]] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash one or more integer columns of shape (n,) together; return shape (n,)."""
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes ^= column.astype(np.uint64, copy=False)
        hashes *= MIX_1
        hashes ^= hashes >> np.uint64(29)
        hashes *= MIX_2
        hashes ^= hashes >> np.uint64(32)
    return hashes

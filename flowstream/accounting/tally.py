"""What each record of a batch stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tally:
    """What each record of a batch stands for, so that any part of it can be accounted for.

    Three arrays of shape (n,): interface index, packets, frame octets. Records
    that announce (new_flows) or count (counters) stand for no packets: zeros.
    """

    in_if: NDArray[np.uint32]
    packets: NDArray[np.uint64]
    l2_bytes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.in_if)

    def __getitem__(self, part: slice | NDArray[Any]) -> Tally:
        return Tally(self.in_if[part], self.packets[part], self.l2_bytes[part])

    @classmethod
    def empty(cls, n: int = 0) -> Tally:
        """Tally of ``n`` records that belong to no interface and carry no packets."""
        return cls(np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64))

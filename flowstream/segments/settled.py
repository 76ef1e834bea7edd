"""Offsets of a partition of the spool whose records have their outcome."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Settled:
    """All offsets below ``next``, and the ranges ``beyond`` it: pairs of begin and end."""

    def __init__(self, next_offset: int = 0, beyond: Iterable[tuple[int, int]] = ()) -> None:
        self.next = next_offset
        self.beyond: list[tuple[int, int]] = []
        for begin, end in beyond:
            self.add(begin, end)

    @property
    def end(self) -> int:
        """The offset after the last one."""
        return self.beyond[-1][1] if self.beyond else self.next

    def covers(self, begin: int, end: int) -> bool:
        """Say whether every offset from ``begin`` to ``end``, exclusive, is settled."""
        return not self.open_parts(begin, end)

    def add(self, begin: int, end: int) -> None:
        """Settle the offsets from ``begin`` to ``end``, exclusive."""
        if begin <= self.next:
            self.next = max(self.next, end)
        elif begin < end:
            self._insert(begin, end)
        while self.beyond and self.beyond[0][0] <= self.next:
            self.next = max(self.next, self.beyond.pop(0)[1])

    def open_parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of ``begin`` to ``end``, exclusive, that are not settled."""
        parts = []
        begin = max(begin, self.next)
        for low, high in self.beyond[max(bisect_right(self.beyond, (begin,)) - 1, 0) :]:
            if low >= end:
                break
            if low > begin:
                parts.append((begin, low))
            begin = max(begin, high)
        if begin < end:
            parts.append((begin, end))
        return parts

    def _insert(self, begin: int, end: int) -> None:
        at = bisect_right(self.beyond, (begin, end))
        if at and self.beyond[at - 1][1] >= begin:
            at -= 1
        last = at
        while last < len(self.beyond) and self.beyond[last][0] <= end:
            begin, end = min(begin, self.beyond[last][0]), max(end, self.beyond[last][1])
            last += 1
        self.beyond[at:last] = [(begin, end)]

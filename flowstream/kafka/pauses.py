"""Pauses between attempts: they grow, and no two clients keep the same ones."""

from __future__ import annotations

import asyncio
import random

# Clients that lost the same broker at the same moment must not return at the same moment.
_SHORTEST_SHARE = 0.5


class Pauses:
    """Pauses that double from ``first`` to ``longest`` seconds.

    Each is shortened at random, at most by half.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def restart(self) -> None:
        """Begin with the first one again."""
        self._next = self._first

    def length(self) -> float:
        """Return the seconds of the next pause, which then grows."""
        length, self._next = self._next, min(2 * self._next, self._longest)
        return length * random.uniform(_SHORTEST_SHARE, 1)  # noqa: S311 - no secret

    async def take(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.length())

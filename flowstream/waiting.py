"""Waits that an event ends early, and pauses between attempts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

SETTLE_POLL_S: Final = 0.02
"""How often a stage looks whether all records have their outcome."""
_SHORTEST_SHARE: Final = 0.5


async def within(seconds: float | None, event: asyncio.Event) -> bool:
    """Wait for an event, ``seconds`` at most (None: no limit); return whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


class Pauses:
    """Pauses that double from ``first`` to ``longest`` seconds.

    Each is shortened at random, at most by half: clients that lost the same broker at the
    same moment must not return at the same moment.
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

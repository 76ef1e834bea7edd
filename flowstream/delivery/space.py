"""Bound on the bytes that a sink has accepted and not settled."""

from __future__ import annotations

import asyncio


class Space:
    """``limit`` bytes, taken in order of arrival and returned later.

    A single piece that is larger than the limit is admitted when nothing else is taken.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes taken and not returned."""
        return self._used

    async def take(self, size: int) -> bool:
        """Wait for room and take ``size`` bytes; return False, nothing taken, once closed."""
        async with self._queue:
            while self._used and self._used + size > self._limit and not self._closed:
                await self._change()
            if self._closed:
                return False
            self._used += size
            return True

    def overdraw(self, size: int) -> None:
        """Take ``size`` bytes at once, beyond the limit too, for what another bound holds."""
        self._used += size

    def give(self, size: int) -> None:
        """Return ``size`` bytes that were taken."""
        self._used -= size
        self._changed.set()

    async def wait_empty(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait until nothing is taken, at most ``timeout`` seconds; say whether that is so."""
        try:
            async with asyncio.timeout(timeout):
                while self._used:
                    await self._change()
        except TimeoutError:
            pass
        return self._used == 0

    def close(self) -> None:
        """Refuse all waiting and further requests."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

"""The bound on what a sink holds: bytes that were accepted and have no outcome yet."""

from __future__ import annotations

import asyncio


class Space:
    """``limit`` bytes to be taken in order of arrival and given back.

    A single piece that is larger than the limit gets in when nothing else is there.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes taken and not given back."""
        return self._used

    async def take(self, size: int) -> bool:
        """Wait for room and take ``size`` bytes; False when closed meanwhile: nothing taken."""
        async with self._queue:
            while self._used and self._used + size > self._limit and not self._closed:
                await self._change()
            if self._closed:
                return False
            self._used += size
            return True

    def give(self, size: int) -> None:
        """Return ``size`` bytes that were taken."""
        self._used -= size
        self._changed.set()

    async def wait_empty(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait until nothing is taken, ``timeout`` seconds at most; say whether it is so."""
        try:
            async with asyncio.timeout(timeout):
                while self._used:
                    await self._change()
        except TimeoutError:
            pass
        return self._used == 0

    def close(self) -> None:
        """Turn away whoever waits and whoever comes."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

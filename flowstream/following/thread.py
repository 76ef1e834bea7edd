"""A thread of its own for work that waits for the kernel."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class OwnThread:
    """Works one thing off after the other, whatever the threads that all share are doing.

    Those wait with many detachments for the kernel's lock of links, and drain tables. The
    thread begins with the first work.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="following")

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Return what ``work`` returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, *arguments)

    def close(self) -> None:
        """Let the thread end; harmless twice."""
        self._executor.shutdown()

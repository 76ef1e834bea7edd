"""An event loop whose time passes only while nothing is to do: waits take no time."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

# For threads, such as those that look up names.
_REAL_SECONDS: Final = 5.0
# For one round of the loop.
_STEP: Final = 0.001


class HangError(Exception):
    """Nothing happens any more, or only after longer than was allowed."""


class _Selector(selectors.DefaultSelector):
    """Returns at once and adds the time that it did not wait to ``waited``."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        # Time passes also while there is always something to do.
        self.waited += _STEP
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if timeout is None:
            found = super().select(_REAL_SECONDS)
            if not found:
                raise HangError("no timer and no descriptor will wake the loop")
            return found
        self.waited += timeout
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_of_time = _Selector()
        super().__init__(self._selector_of_time)
        # The errors of abandoned tasks and connections are the library's.
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return 1_000.0 + self._selector_of_time.waited


def run(main: Coroutine[Any, Any, None], seconds: float) -> None:
    """Run ``main``; raises HangError when it takes more than ``seconds`` of that time."""
    loop = _Loop()
    try:
        task = loop.create_task(main)
        timer = loop.call_later(seconds, task.cancel, "too long")
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError as err:
            raise HangError(f"more than {seconds:g} s") from err
        timer.cancel()
        left = asyncio.all_tasks(loop)
        for each in left:
            each.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1))
    finally:
        loop.close()

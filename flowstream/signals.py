"""The first of some signals, caught by the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def first_signal(
    numbers: Iterable[signal.Signals], act: Callable[[signal.Signals], object]
) -> Iterator[None]:
    """Call ``act`` at the first of these signals; a second one has its usual effect.

    Signals that are ignored (nohup) stay so. Nothing is caught outside the main thread,
    nor on Windows, whose event loops handle no signals.
    """
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []

    def release() -> None:
        while handled:
            loop.remove_signal_handler(handled.pop())

    def catch(number: signal.Signals) -> None:
        release()
        act(number)

    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(NotImplementedError):
                    loop.add_signal_handler(number, catch, number)
                    handled.append(number)
    try:
        yield
    finally:
        release()

"""Signals end a run over captures in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from flowstream.agent.signals import ENDING
from flowstream.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Catch signals once; yield a function that raises SourceError after one.

    A second signal has its usual effect. Signals that are ignored (nohup) stay so.
    """
    loop = asyncio.get_running_loop()
    caught: list[str] = []
    handled: set[signal.Signals] = set()

    def release() -> None:
        while handled:
            loop.remove_signal_handler(handled.pop())

    def catch(number: signal.Signals) -> None:
        caught.append(number.name)
        release()

    def check() -> None:
        if caught:
            raise SourceError(f"stopped by {caught[0]}: what was read before it is published")

    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, catch, number)
                handled.add(number)
    try:
        yield check
    finally:
        release()

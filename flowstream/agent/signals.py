"""The signals that end a run: the first one in order, a second one at once."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

log = structlog.get_logger()


class Signals:
    """Remembers the first signal until somebody can act on it; the second ends the process."""

    def __init__(self) -> None:
        self._stop: Callable[[], object] | None = None
        self.received = False

    def catch(self) -> None:
        """Handle the signals from now on, without an event loop."""
        for number in _caught():
            signal.signal(number, self._handle)

    def deliver(self, stop: Callable[[], object]) -> None:
        """Call ``stop`` in the running event loop at the first signal, also an earlier one."""
        loop = asyncio.get_running_loop()
        for number in _caught():
            loop.add_signal_handler(number, self._handle, number)
        self._stop = stop
        if self.received:
            stop()

    def _handle(self, number: int, _: object = None) -> None:
        if self.received:
            log.error("second signal: ending at once, unpublished records are lost")
            # The links end with the process: no program stays on an interface.
            os._exit(1)
        self.received = True
        log.info("stopping", signal=signal.Signals(number).name)
        if self._stop:
            self._stop()


def _caught() -> Iterator[signal.Signals]:
    for number in ENDING:
        # nohup: the process should outlive its terminal.
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        yield number

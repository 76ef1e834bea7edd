"""The signals that end a run, the first one in order, a second one at once; SIGHUP may reload."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

log = structlog.get_logger()


class Signals:
    """Remembers signals until somebody can act on them; the second that ends does so at once.

    With ``reloads`` SIGHUP does not end the run: it asks for the configuration to be read
    again. ``pinned``: a next run goes on with what this one leaves.
    """

    def __init__(self, *, reloads: bool = False, pinned: bool = False) -> None:
        self._reloads, self._pinned = reloads, pinned
        self._reload_asked = False
        self._noted: Counter[int] = Counter()
        self._stop: Callable[[], object] | None = None
        self._reload: Callable[[], object] | None = None
        self.received = False

    def catch(self) -> None:
        """Handle the signals from now on, without an event loop."""
        for number in _caught():
            signal.signal(number, self._handle_early)
        if self._reloads:
            # Held back since the configuration was read.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))

    def deliver(
        self, stop: Callable[[], object], reload: Callable[[], object] | None = None
    ) -> None:
        """Call ``stop`` or ``reload`` in the running event loop, also for an earlier signal."""
        loop = asyncio.get_running_loop()
        for number in _caught():
            loop.add_signal_handler(number, self._handle_late, number)
        self._stop, self._reload = stop, reload
        if self.received:
            stop()
        if self._reload_asked and reload:
            reload()

    def _handle_early(self, number: int, _: object) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            # uvloop has noted it, and reports it once there is a handler.
            self._noted[number] += 1
        self._handle(number)

    def _handle_late(self, number: int) -> None:
        if self._noted[number]:
            self._noted[number] -= 1
        else:
            self._handle(number)

    def _handle(self, number: int) -> None:
        if number == signal.SIGHUP and self._reloads:
            self._reload_asked = True
            if self._reload:
                self._reload()
            return
        if self.received:
            if self._pinned:
                log.error("second signal: ending at once, the next run counts what is unpublished")
            else:
                log.error("second signal: ending at once, unpublished records are lost")
            # Without pins the links end with the process: no program stays on an interface.
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

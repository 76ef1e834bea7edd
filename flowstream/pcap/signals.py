"""Signals end a run over captures in order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flowstream.agent.signals import ENDING
from flowstream.errors import SourceError
from flowstream.signals import first_signal

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Catch the first signal; yield a function that raises SourceError after it."""
    caught: list[signal.Signals] = []

    def check() -> None:
        if caught:
            raise SourceError(f"stopped by {caught[0].name}: what was read before it is published")

    with first_signal(ENDING, caught.append):
        yield check

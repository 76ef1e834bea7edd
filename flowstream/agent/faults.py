"""Faults of a run: each is logged, ends the run in order, and makes its exit status 1."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog

from flowstream.errors import FlowstreamError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

log = structlog.get_logger()


class Faults:
    """The faults of one run; ``stop`` lets it end."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self.any = False

    def add(self, fault: BaseException) -> None:
        """Log a fault and end the run."""
        self.any = True
        # Foreseen faults explain themselves; others need the traceback.
        known = isinstance(fault, FlowstreamError)
        log.error("a stage failed", error=str(fault), exc_info=None if known else fault)
        self._stop()

    def add_of(self, task: asyncio.Task[None]) -> None:
        """Add the exception of a task that is done, if it has one."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.add(fault)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Add an exception of the block instead of raising it."""
        try:
            yield
        except Exception as fault:  # noqa: BLE001 - whatever it is, what follows must take place
            self.add(fault)

"""A thread that writes batches one after the other, so that no disk or pipe blocks the loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, TypeVar

import structlog

from flowstream.delivery.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.messages import MessageBatch

IN_FLIGHT_BYTES = 64 << 20

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class Worker:
    """Bounded queue, thread, and outcomes back in the loop.

    ``write`` runs in the thread: it writes a batch and returns how many of its
    records are written, and the cause why the others are not. What it raises is a
    fault of the program: the batch fails by "internal_error", and ``on_fault`` is
    called in the thread with a text to that effect.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[MessageBatch], tuple[int, str]],
        outcomes: Outcomes[MessageBatch],
        on_fault: Callable[[str], None],
        limit: int = IN_FLIGHT_BYTES,
    ) -> None:
        self._name = name
        self._write = write
        self._outcomes = outcomes
        self._on_fault = on_fault
        self._faulty = False
        self._space = Space(limit)
        # What is queued or being written; a batch that is taken out of it has its outcome.
        self._unsettled: dict[int, tuple[MessageBatch, int]] = {}
        self._accepted = 0
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # A daemon: a write that never returns must not keep the process from its end.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def put(self, batch: MessageBatch) -> None:
        """Accept ``batch`` once there is room."""
        if not len(batch):
            return
        size = max(batch.octets, 1)
        if not await self._space.take(size):
            self._outcomes.failed(batch, slice(0, len(batch)), "shutdown")
            return
        number = self._accepted
        self._accepted += 1
        self._unsettled[number] = (batch, size)
        self._queue.put(lambda: self._write_one(number, batch))

    async def run(self, function: Callable[[], object], timeout: float) -> bool:  # noqa: ASYNC109
        """Run ``function`` in the thread after all that was put; say whether it ended in time."""
        done = asyncio.Event()

        def call() -> None:
            self._attempt(function)
            self._tell(done.set)

        self._queue.put(call)
        try:
            async with asyncio.timeout(timeout):
                await done.wait()
        except TimeoutError:
            return False
        return True

    async def flush(self, timeout: float, cause: str) -> int:  # noqa: ASYNC109
        """Wait for all outcomes; after ``timeout`` seconds the rest fails by ``cause``.

        Returns the number of records that failed so.
        """
        if await self._space.wait_empty(timeout):
            return 0
        failed = 0
        for number in list(self._unsettled):
            failed += self._settle(number, 0, cause)
        return failed

    def refuse(self) -> None:
        """Accept no more: whoever waits in ``put`` and whoever comes fails by "shutdown"."""
        self._space.close()

    def end(self) -> None:
        """End the thread when it has done what it was given."""
        self._queue.put(None)

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call()

    def _write_one(self, number: int, batch: MessageBatch) -> None:
        # What was reported failed while it waited here must not be published.
        if number in self._unsettled:
            written, cause = self._attempt(lambda: self._write(batch)) or (0, "internal_error")
            self._tell(self._settle, number, written, cause)

    def _attempt(self, function: Callable[[], _T]) -> _T | None:
        """Return what ``function`` returns, None after an exception: the thread must go on."""
        try:
            return function()
        except Exception as err:
            # Once: all that follows may fail in the same way.
            if not self._faulty:
                self._faulty = True
                log.exception("internal_error", thread=self._name)
            self._on_fault(f"{type(err).__name__}: {err}")
            return None

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        # A closed loop means that nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _settle(self, number: int, written: int, cause: str) -> int:
        """Report the outcome of a batch once; return how many of its records failed."""
        batch, size = self._unsettled.pop(number, (None, 0))
        if batch is None:
            return 0
        self._space.give(size)
        if written:
            self._outcomes.acknowledged(batch, slice(0, written))
        if written < len(batch):
            self._outcomes.failed(batch, slice(written, len(batch)), cause)
        return len(batch) - written

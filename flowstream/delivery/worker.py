"""A thread that writes batches in order, so that no disk or pipe blocks the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import structlog

from flowstream.accounting import terms
from flowstream.delivery.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.accounting.outcomes import Outcomes

IN_FLIGHT_BYTES = 64 << 20

_T = TypeVar("_T")


class Writable(Protocol):
    """The part of a batch that the worker needs."""

    def __len__(self) -> int: ...

    @property
    def octets(self) -> int:
        """Octets that it takes in memory, about."""


BatchT = TypeVar("BatchT", bound=Writable)

log = structlog.get_logger(__name__)


class GivenUp(NamedTuple):
    """Records that were given up: those that are not written, and those that may be."""

    failed: int = 0
    in_doubt: int = 0


class Worker(Generic[BatchT]):
    """Bounded queue and thread; reports outcomes in the loop.

    ``write`` runs in the thread: it writes a batch and returns how many of its
    records are written and why the others are not. An exception that it raises is
    a bug: the batch fails by "internal_error", and ``on_fault`` is called in the
    thread with a text that says so.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[BatchT], tuple[int, str]],
        outcomes: Outcomes[BatchT],
        on_fault: Callable[[str], None],
        limit: int = IN_FLIGHT_BYTES,
    ) -> None:
        self._name = name
        self._write = write
        self._outcomes = outcomes
        self._on_fault = on_fault
        self._faulty = False
        self._space = Space(limit)
        # Batches without an outcome and their sizes, by number.
        self._unsettled: dict[int, tuple[BatchT, int]] = {}
        self._accepted = 0
        # The last number whose batch the thread began to write.
        self._begun = -1
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # A daemon: a write that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def put(self, batch: BatchT) -> None:
        """Accept ``batch`` once there is room."""
        if not len(batch):
            return
        size = max(batch.octets, 1)
        if not await self._space.take(size):
            self._outcomes.failed(batch, slice(0, len(batch)), terms.SHUTDOWN)
            return
        self._accept(batch, size)

    def put_at_once(self, batch: BatchT) -> None:
        """Accept ``batch`` without waiting for room; another bound limits how many come."""
        size = max(batch.octets, 1)
        self._space.overdraw(size)
        self._accept(batch, size)

    def _accept(self, batch: BatchT, size: int) -> None:
        number = self._accepted
        self._accepted += 1
        self._unsettled[number] = (batch, size)
        self._queue.put(lambda: self._write_one(number, batch))

    def call(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run ``function`` in the thread after queued batches; the future gets its result.

        A future that is cancelled before ``function`` begins prevents it.
        """
        promise: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def work() -> None:
            if not promise.set_running_or_notify_cancel():
                return
            try:
                promise.set_result(function())
            except Exception as err:  # noqa: BLE001 - for the caller
                promise.set_exception(err)

        self._queue.put(work)
        return asyncio.wrap_future(promise, loop=self._loop)

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the thread after queued batches; an exception is a bug."""
        self._queue.put(lambda: self._attempt(function))

    async def run(self, function: Callable[[], object], timeout: float) -> bool:  # noqa: ASYNC109
        """Run ``function`` in the thread after queued batches; say whether it ended in time."""
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

    async def flush(self, timeout: float, cause: str) -> GivenUp:  # noqa: ASYNC109
        """Wait for all outcomes; give up the rest by ``cause`` after ``timeout`` seconds.

        A batch that is being written then is in doubt.
        """
        if await self._space.wait_empty(timeout):
            return GivenUp()
        # Outcomes that the thread has reported by now count.
        await asyncio.sleep(0)
        failed = in_doubt = 0
        for number in list(self._unsettled):
            batch = self._take(number)
            everything = slice(0, len(batch))
            # The batch is taken before this look, and the thread looks for it after it
            # has set ``_begun``: what fails here is never written.
            if number > self._begun:
                self._outcomes.failed(batch, everything, cause)
                failed += len(batch)
            else:
                self._outcomes.in_doubt(batch, everything, cause)
                in_doubt += len(batch)
        return GivenUp(failed, in_doubt)

    def refuse(self) -> None:
        """Accept no more: batches that wait in ``put`` and later ones fail by "shutdown"."""
        self._space.close()

    def end(self) -> None:
        """End the thread after everything that is queued."""
        self._queue.put(None)

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call()

    def _write_one(self, number: int, batch: BatchT) -> None:
        self._begun = number
        # A batch that was given up meanwhile must not be published.
        if number in self._unsettled:
            written, cause = self._attempt(lambda: self._write(batch)) or (0, terms.INTERNAL_ERROR)
            self._tell(self._settle, number, written, cause)

    def _attempt(self, function: Callable[[], _T]) -> _T | None:
        """Return the result of ``function``, None after an exception: the thread must go on."""
        try:
            return function()
        except Exception as err:
            # Once: everything that follows may fail in the same way.
            if not self._faulty:
                self._faulty = True
                log.exception("internal_error", thread=self._name)
            self._on_fault(f"{type(err).__name__}: {err}")
            return None

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        # A closed loop means that nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _settle(self, number: int, written: int, cause: str) -> None:
        """Report the outcome of a batch, unless it was given up in the meantime."""
        if number not in self._unsettled:
            return
        batch = self._take(number)
        if written:
            self._outcomes.acknowledged(batch, slice(0, written))
        if written < len(batch):
            self._outcomes.failed(batch, slice(written, len(batch)), cause)

    def _take(self, number: int) -> BatchT:
        batch, size = self._unsettled.pop(number)
        self._space.give(size)
        return batch

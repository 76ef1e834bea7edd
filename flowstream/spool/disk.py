"""The spool in a thread of its own, so that no disk blocks the event loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from flowstream.accounting import terms
from flowstream.accounting.snapshot import SpoolState
from flowstream.delivery.worker import Worker
from flowstream.errors import FlowstreamError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.segments.spool import Spool
    from flowstream.segments.spooled import Lost, SpooledBatch
    from flowstream.spool.parcel import Parcel

MEMORY_BYTES: Final = 16 << 20
"""Octets that wait to be written; then ``put`` waits."""

_OVER_S: Final = 10.0
"""A fault that did not occur for so long is over."""

log = structlog.get_logger(__name__)


class Status(NamedTuple):
    """The spool at one moment: ``gone`` since the last one, runs whose records wait.

    ``saved``: the checkpoint was written just now.
    """

    records: int = 0
    spool: SpoolState = SpoolState()
    epochs: frozenset[int] = frozenset()
    gone: Sequence[Lost] = ()
    saved: bool = False


class Disk:
    """Owner of the thread that alone uses the spool, from ``start`` to ``close``.

    Every record of a parcel gets its outcome: acknowledged says that it is in the spool.
    ``on_fault`` is called in the thread.
    """

    _worker: Worker[Parcel]

    def __init__(
        self, spool: Spool, outcomes: Outcomes[Parcel], on_fault: Callable[[str], None]
    ) -> None:
        self._spool, self._outcomes, self._on_fault = spool, outcomes, on_fault
        # When each fault occurred last: logged when it begins and once it has stayed away.
        self._faults: dict[str, float] = {}
        self.writable = True
        """Whether the last write succeeded."""
        self.durable = True
        """Whether the disk confirmed everything at the last ``tidy``."""

    def start(self) -> None:
        """Start the thread."""
        self._worker = Worker("spool", self._write, self._outcomes, self._on_fault, MEMORY_BYTES)

    async def put(self, parcel: Parcel) -> None:
        """Write a parcel; wait while many others wait."""
        await self._worker.put(parcel)

    def put_at_once(self, parcel: Parcel) -> None:
        """Write a parcel of records that were in memory already."""
        self._worker.put_at_once(parcel)

    async def read(self, without: Collection[tuple[str, int]]) -> SpooledBatch | None:
        """Return the next unread batch; see ``Spool.read``."""
        others = frozenset(without)
        return await self._worker.call(lambda: self._read(others))

    def acknowledge(self, spooled: SpooledBatch) -> None:
        """Let a batch leave the spool."""
        self._worker.post(lambda: self._spool.acknowledge(spooled))

    def doubt(self, spooled: SpooledBatch) -> None:
        """Note that a batch was sent and not answered."""
        self._worker.post(lambda: self._spool.doubt(spooled))

    def tidy(self) -> asyncio.Future[Status]:
        """Make the spool durable, keep its limits, and return its status."""
        return self._worker.call(self._tidy)

    def save(self, runs: Mapping[int, Sequence[bytes]]) -> asyncio.Future[Status]:
        """Write the checkpoint, which deletes files, and return the status after that."""
        return self._worker.call(lambda: self._save(runs))

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Write all parcels; give up by "shutdown" after ``timeout`` seconds."""
        given_up = await self._worker.flush(timeout, terms.SHUTDOWN)
        if given_up.failed or given_up.in_doubt:
            log.error("spool_too_slow", failed=given_up.failed, in_doubt=given_up.in_doubt)

    def refuse(self) -> None:
        """Accept no more parcels by ``put``."""
        self._worker.refuse()

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancel
        """Close the spool, then end the thread; say whether the disk answered in time."""
        # The thread closes: it may still be in the middle of a write.
        closed = await self._worker.run(self._spool.close, timeout)
        self._worker.end()
        return closed

    def _write(self, parcel: Parcel) -> tuple[int, str]:
        written, error = self._spool.append(
            parcel.batch, parcel.agent_epoch, in_doubt=parcel.in_doubt
        )
        self.writable = error is None
        self._note("spool_write_failed", error)
        if self._spool.exceeded:
            self._attempt("spool_not_tidied", self._spool.tidy, _now_ms())
        return written, terms.IO_ERROR

    def _read(self, without: Collection[tuple[str, int]]) -> SpooledBatch | None:
        try:
            found = self._spool.read(without)
        except (OSError, FlowstreamError) as err:
            self._note("spool_not_read", err)
            raise
        self._note("spool_not_read", None)
        return found

    def _tidy(self) -> Status:
        self.durable = self._attempt("spool_not_durable", self._spool.sync)
        self._attempt("spool_not_tidied", self._spool.tidy, _now_ms())
        return self._status(self._spool.gone())

    def _save(self, runs: Mapping[int, Sequence[bytes]]) -> Status:
        saved = self._attempt("spool_not_saved", self._spool.save, runs)
        return self._status()._replace(saved=saved)

    def _status(self, gone: Sequence[Lost] = ()) -> Status:
        spool = self._spool
        return Status(
            records=spool.records,
            spool=SpoolState(spool.octets, (spool.oldest_ms or 0) * 1_000_000),
            epochs=frozenset(waiting.agent_epoch for waiting in spool.amounts),
            gone=gone,
        )

    def _attempt(self, event: str, function: Callable[..., object], *args: object) -> bool:
        error: Exception | None = None
        try:
            function(*args)
        except (OSError, FlowstreamError) as err:
            error = err
        self._note(event, error)
        return error is None

    def _note(self, event: str, error: Exception | None) -> None:
        """Log a fault when it begins, and when it is over: a full disk takes small batches."""
        if error is None and event not in self._faults:
            return
        now = time.monotonic()
        if error is not None:
            if event not in self._faults:
                log.error(event, error=getattr(error, "strerror", None) or str(error))
            self._faults[event] = now
        elif now - self._faults[event] > _OVER_S:
            del self._faults[event]
            log.info("spool_recovered", fault=event)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

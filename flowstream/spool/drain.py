"""Publishes the records that wait in the spool, the oldest first, beside live ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from flowstream.accounting import terms
from flowstream.errors import FlowstreamError
from flowstream.kafka.pauses import Pauses
from flowstream.spool.pace import Rate, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.messages import MessageBatch
    from flowstream.segments.spooled import SpooledBatch

PASSING: Final = frozenset(
    (terms.DELIVERY_TIMEOUT, terms.SHUTDOWN, terms.NOT_AUTHORISED, terms.UNKNOWN_TOPIC)
)
"""Causes for which records are kept and sent again later."""
_POLL_S: Final = 0.25
"""How often the drain checks whether the cluster answers, while records wait."""
_LIVE_SHARE: Final = 0.25
"""Share of the sink's memory from which on live records need all that the cluster takes."""
_PAUSES_S: Final = (1.0, 30.0)
"""Between attempts that fail: the first pause and the longest."""


log = structlog.get_logger(__name__)


class Cluster(Protocol):
    """The part of the Kafka sink that the drain needs."""

    @property
    def acknowledging(self) -> bool:
        """Whether the cluster is connected and answers."""

    @property
    def memory_share(self) -> float:
        """Share of its memory that unsettled records take."""

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; its records get their outcomes later."""


class Store(Protocol):
    """The part of the spool that the drain needs; it belongs to another thread."""

    async def read(self) -> SpooledBatch | None:
        """Return the next batch that was not read, None when there is none."""

    async def rewind(self) -> None:
        """Read again what was read and has no outcome."""


@dataclass(slots=True)
class Refused:
    """A part of a batch that is given up for good."""

    part: slice
    cause: str
    in_doubt: bool


@dataclass(slots=True, eq=False)
class Drained:
    """A batch on its way from the spool to the cluster, and the outcomes of its parts."""

    spooled: SpooledBatch
    octets: int
    began: float
    open: int
    acknowledged: list[slice] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    # Any of it must be sent again.
    again: bool = False
    unanswered: bool = False


class Drain:
    """Reads the spool and sends what it has; ``run`` it as a task.

    A batch stays in the spool until every record of it has its outcome: if any must be
    sent again, all are. ``settled`` is called once each has an outcome. ``rate`` limits
    the records per second.
    """

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        settled: Callable[[Drained], object],
        *,
        rate: int | None,
    ) -> None:
        self._store, self._cluster, self._settled = store, cluster, settled
        self._window, self._rate = Window(), Rate(rate)
        self._pauses = Pauses(*_PAUSES_S)
        self._on_way: dict[tuple[str, int, int], Drained] = {}
        self._failed = False
        self._unread = asyncio.Event()
        self._changed = asyncio.Event()
        self.records = 0
        """Records published from the spool so far."""

    def wake(self) -> None:
        """There is something to read."""
        self._unread.set()

    async def run(self) -> None:
        """Drain until cancelled."""
        while True:
            await self._unread.wait()
            if not self._cluster.acknowledging or self._cluster.memory_share > _LIVE_SHARE:
                await asyncio.sleep(_POLL_S)
            elif self._failed:
                await self._begin_again()
            elif not self._window.has_room():
                await self._wait()
            else:
                await self._send_next()

    async def _send_next(self) -> None:
        if wait := self._rate.wait(_now()):
            await asyncio.sleep(wait)
            return
        self._unread.clear()
        try:
            spooled = await self._store.read()
        except (OSError, FlowstreamError) as err:
            log.error("spool_not_read", error=str(err))  # noqa: TRY400 - a fault of the disk
            self._failed = True
            self._unread.set()
            return
        if spooled is None:
            return
        self._unread.set()
        batch = spooled.batch
        place = spooled.place
        # The outcomes name the batch by its offsets.
        numbered = replace(batch, offsets=range(place.base_offset, place.base_offset + len(batch)))
        drained = Drained(spooled, batch.octets, _now(), len(batch))
        self._on_way[place] = drained
        self._window.take(drained.octets)
        self._rate.take(len(batch), _now())
        await self._cluster.send(numbered)

    async def _begin_again(self) -> None:
        """Wait for the outcomes of the others, pause, and read again what failed."""
        while self._on_way:
            await self._wait()
        await asyncio.sleep(self._pauses.length())
        await self._store.rewind()
        self._failed = False

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        """Records that the drain sent are published."""
        self.records += part.stop - part.start
        self._pauses.restart()
        self._note(batch, part, lambda drained: drained.acknowledged.append(part))

    def failed(self, batch: MessageBatch, part: slice, cause: str, *, in_doubt: bool) -> None:
        """Records that the drain sent are not published, or in doubt."""

        def note(drained: Drained) -> None:
            if cause in PASSING:
                drained.again = True
                drained.unanswered |= in_doubt
            else:
                doubtful = in_doubt or drained.spooled.in_doubt
                drained.refused.append(Refused(part, cause, doubtful))

        self._note(batch, part, note)

    def _note(self, batch: MessageBatch, part: slice, note: Callable[[Drained], object]) -> None:
        place = (batch.topic, batch.partition, batch.offsets[0])
        drained = self._on_way[place]
        note(drained)
        drained.open -= part.stop - part.start
        if drained.open:
            return
        del self._on_way[place]
        self._window.give(drained.octets, drained.began, _now(), answered=not drained.again)
        self._failed |= drained.again
        self._changed.set()
        self._settled(drained)


def _now() -> float:
    return asyncio.get_running_loop().time()

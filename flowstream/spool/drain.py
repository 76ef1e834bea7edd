"""Publishes the records that wait in the spool, the oldest first, beside live ones."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from flowstream.accounting import terms
from flowstream.errors import FlowstreamError
from flowstream.spool.pace import Rate, Window
from flowstream.waiting import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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


Partition = tuple[str, int]


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

    async def read(self, without: Collection[Partition]) -> SpooledBatch | None:
        """Return the next batch of other partitions that was not read, None without one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A part of a batch that is given up for good."""

    part: slice
    cause: str
    in_doubt: bool


@dataclass(slots=True, eq=False)
class Drained:
    """A batch from the spool, and the outcomes of its parts."""

    spooled: SpooledBatch
    acknowledged: list[slice] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    # Any of it was sent and not answered.
    unanswered: bool = False
    # Of the attempt that is under way: records without an outcome, and those that have to
    # be sent again.
    open: int = 0
    again: int = 0
    began: float = 0.0
    octets: int = 0
    keys: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def partition(self) -> Partition:
        """Topic and partition."""
        return self.spooled.place[:2]

    def unsettled(self) -> list[slice]:
        """Return the parts without a final outcome."""
        settled = [*self.acknowledged, *(each.part for each in self.refused)]
        parts, begin = [], 0
        for part in sorted(settled, key=lambda part: part.start):
            if part.start > begin:
                parts.append(slice(begin, part.start))
            begin = part.stop
        if begin < len(self.spooled.batch):
            parts.append(slice(begin, len(self.spooled.batch)))
        return parts


@dataclass(slots=True)
class _Failed:
    """A partition whose records the cluster does not take: the next attempt, and with what.

    ``at`` is infinite while an attempt is under way.
    """

    batches: list[Drained] = field(default_factory=list)
    at: float = 0.0
    pauses: Pauses = field(default_factory=lambda: Pauses(*_PAUSES_S))


class Drain:
    """Reads the spool and sends what it has; ``run`` it as a task.

    ``settled`` is called after each attempt to send a batch: it stays in the spool until
    no record of it has to be sent again. Other partitions go on where one fails. ``rate``
    limits the records per second.
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
        # By topic, partition and first offset of each part that was sent.
        self._on_way: dict[tuple[str, int, int], Drained] = {}
        self._failed: dict[Partition, _Failed] = {}
        # There is something to read, or to send again.
        self._unread = asyncio.Event()
        self._changed = asyncio.Event()
        self.records = 0
        """Records published from the spool so far."""

    def wake(self) -> None:
        """There is something to read."""
        self._unread.set()
        self._changed.set()

    async def run(self) -> None:
        """Drain until cancelled."""
        while True:
            await self._unread.wait()
            if not self._cluster.acknowledging or self._cluster.memory_share > _LIVE_SHARE:
                await asyncio.sleep(_POLL_S)
            elif not self._window.has_room():
                await self._wait(None)
            elif wait := self._rate.wait(_now()):
                await asyncio.sleep(wait)
            else:
                await self._send_next()

    async def _send_next(self) -> None:
        """Send a batch, or wait until there is one."""
        if (drained := self._due()) is not None:
            await self._send(drained)
            return
        self._unread.clear()
        left_out = frozenset(self._failed)
        try:
            spooled = await self._store.read(left_out)
        except (OSError, FlowstreamError):
            # The store has logged it.
            self._unread.set()
            await asyncio.sleep(_PAUSES_S[0])
            return
        if spooled is not None:
            self._unread.set()
            await self._send(Drained(spooled))
        elif left_out - self._failed.keys():
            # One recovered during the read: its batches can be read now.
            self._unread.set()
        elif self._failed:
            self._unread.set()
            next_attempt = min(each.at for each in self._failed.values())
            await self._wait(max(next_attempt - _now(), 0))

    def _due(self) -> Drained | None:
        """Return a batch whose next attempt is due."""
        now = _now()
        for failed in self._failed.values():
            if failed.batches and failed.at <= now:
                failed.at = math.inf
                return failed.batches.pop(0)
        return None

    async def _send(self, drained: Drained) -> None:
        batch, place = drained.spooled.batch, drained.spooled.place
        # The outcomes name the batch by its offsets.
        numbered = replace(batch, offsets=range(place.base_offset, place.base_offset + len(batch)))
        parts = [numbered.part(part) for part in drained.unsettled()]
        drained.open, drained.again = sum(map(len, parts)), 0
        drained.began, drained.octets = _now(), sum(part.octets for part in parts)
        drained.keys = [(*drained.partition, part.offsets[0]) for part in parts]
        self._on_way.update(dict.fromkeys(drained.keys, drained))
        self._window.take(drained.octets)
        self._rate.take(drained.open, _now())
        for part in parts:
            await self._cluster.send(part)

    async def _wait(self, seconds: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        """Records that the drain sent are published."""
        self.records += part.stop - part.start
        drained, whole = self._find(batch, part)
        drained.acknowledged.append(whole)
        self._close(drained, part)

    def failed(self, batch: MessageBatch, part: slice, cause: str, *, in_doubt: bool) -> None:
        """Records that the drain sent are not published, or in doubt."""
        drained, whole = self._find(batch, part)
        drained.unanswered |= in_doubt
        if cause in PASSING:
            drained.again += part.stop - part.start
        else:
            doubtful = drained.unanswered or drained.spooled.in_doubt
            drained.refused.append(Refused(whole, cause, doubtful))
        self._close(drained, part)

    def _find(self, batch: MessageBatch, part: slice) -> tuple[Drained, slice]:
        """Return the batch that a part was sent of, and the part in the whole batch."""
        drained = self._on_way[batch.topic, batch.partition, batch.offsets[0]]
        shift = batch.offsets[0] - drained.spooled.place.base_offset
        return drained, slice(part.start + shift, part.stop + shift)

    def _close(self, drained: Drained, part: slice) -> None:
        """Note the outcome of a part; the attempt ends with the last one."""
        drained.open -= part.stop - part.start
        if drained.open:
            return
        for key in drained.keys:
            del self._on_way[key]
        answered = not drained.again
        self._window.give(drained.octets, drained.began, _now(), answered=answered)
        self._note_attempt(drained)
        self._changed.set()
        self._settled(drained)

    def _note_attempt(self, drained: Drained) -> None:
        now = _now()
        if drained.again:
            failed = self._failed.setdefault(drained.partition, _Failed())
            failed.batches.append(drained)
            if not now < failed.at < math.inf:
                failed.at = now + failed.pauses.length()
        elif drained.partition in self._failed:
            failed = self._failed[drained.partition]
            failed.at = now
            if not failed.batches:
                del self._failed[drained.partition]


def _now() -> float:
    return asyncio.get_running_loop().time()

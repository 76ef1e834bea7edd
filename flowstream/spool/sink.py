"""The Kafka sink with a spool: what the cluster does not take waits on disk.

Live records go to the cluster while it answers and its memory has room, else to the spool.
So do records that the Kafka sink gives up for a passing reason. The drain publishes what
waits, the oldest first, through the same sink and beside live records: ``seq`` is the only
order between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.accounting import terms
from flowstream.delivery.condition import Condition
from flowstream.spool.books import Books, Written
from flowstream.spool.disk import Disk
from flowstream.spool.drain import PASSING, Drain
from flowstream.spool.keeper import DISK_S, Keeper
from flowstream.spool.parcel import Parcel
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.accounting.snapshot import Moment, SpoolState
    from flowstream.encode import Encoder
    from flowstream.kafka.sink import KafkaSink
    from flowstream.messages import MessageBatch
    from flowstream.records import CountersRecord
    from flowstream.segments.spool import Spool
    from flowstream.spool.drain import Drained

_CONNECT_S: Final = 1.0
"""How long the start waits for a connection: usually nothing needs to be spooled."""
_CONNECT_POLL_S: Final = 0.02
_SHARES: Final = {Stream.FLOWS: 0.5, Stream.NEW_FLOWS: 0.75, Stream.COUNTERS: 0.75}
"""Share of the Kafka sink's memory from which on live records go to the spool.

Announcements and counters are few: where the cluster is slow they do not wait behind flows.
"""
_FLUSH_SHARE: Final = 0.6
"""Part of the time of a flush that the cluster gets; the rest is the disk's."""

log = structlog.get_logger(__name__)


class SpoolingSink:
    """A Kafka sink and a spool; see ``flowstream.sink.Sink``.

    ``make_kafka`` makes the Kafka sink, whose outcomes this one receives. ``encoder``
    encodes amended counters records of earlier runs. ``rate`` limits the records per
    second that leave the spool.
    """

    def __init__(
        self,
        make_kafka: Callable[[Outcomes[MessageBatch]], KafkaSink],
        spool: Spool,
        books: Books,
        *,
        partitions: int,
        encoder: Encoder,
        clock: Callable[[], Moment],
        rate: int | None = None,
    ) -> None:
        self._kafka = make_kafka(self)
        self._spool, self._books = spool, books
        self._wanted = partitions
        self._disk = Disk(spool, Written(books, self._written), self._fail)
        self._drain = Drain(self._disk, self._kafka, self._drained, rate=rate)
        self._keeper = Keeper(
            self._disk,
            books,
            self._drain,
            encoder=encoder,
            clock=clock,
            partitions=self._kafka.partitions,
        )
        self._fault: str | None = None
        # Partitions whose records the cluster did not take: live ones are spooled, too,
        # until it takes one from the spool.
        self._held: set[tuple[str, int]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def fault(self) -> str | None:
        """See ``flowstream.sink.Sink``."""
        return self._kafka.fault or self._fault

    @property
    def condition(self) -> Condition:
        """See ``flowstream.sink.Sink``."""
        if self.fault:
            return Condition.FAILED
        condition = self._kafka.condition
        passes = condition is Condition.REFUSED and self._kafka.refusals <= PASSING
        if (condition is Condition.WAITING or passes) and self._disk.writable:
            return Condition.SPOOLING
        return condition

    @property
    def spool_state(self) -> SpoolState:
        """The spool as it was at most a second ago."""
        return self._keeper.status.spool

    def note_counters(self, record: CountersRecord, topic: str) -> None:
        """Note a counters record of a live run, before it is sent."""
        self._books.note(record, topic)

    def close_run(self, agent_epoch: int) -> None:
        """Note that the last counters record of a run, which has no more, was published."""
        self._books.close(agent_epoch)

    def prepare(self, topics: Sequence[str]) -> None:
        """Take the spool over; ``SinkError`` before anything in it is changed."""
        self._spool.open(dict.fromkeys(topics, self._wanted))

    def load(self) -> None:
        """Do nothing: everything is imported already."""

    async def start(self, topics: Sequence[str]) -> None:
        """Begin to publish, once there is a broker; until then records are spooled.

        Waits a moment for the broker, and is done, too, when that is cancelled.
        """
        # Not while the process is privileged: its user can write what stands there.
        self._books.load(self._spool.runs, self._spool.amounts)
        self._disk.start()
        # Those of earlier runs, whose records wait or whose counters may be amended.
        others = (self._spool.topics | self._books.topics) - set(topics)
        await self._kafka.start([*topics, *sorted(others)], wait=False)
        if self._spool.records:
            self._keeper.report.found(self._spool.records, self._spool.octets, _now())
        self._written()  # Or counters of an earlier run are due.
        self._spawn(self._drain.run(), "spool-drain")
        self._spawn(self._keeper.run(), "spool-keeper")
        deadline = _now() + _CONNECT_S
        with contextlib.suppress(asyncio.CancelledError):
            while not self._kafka.acknowledging and _now() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_CONNECT_POLL_S)

    def partitions(self, topic: str) -> int:
        """Return the number of partitions, as last seen or else as configured."""
        return self._kafka.partitions(topic)

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while both the cluster and the disk are slow."""
        if not len(batch):
            return
        if self._takes(batch):
            await self._kafka.send(batch)
        else:
            await self._disk.put(Parcel(batch))

    def _takes(self, batch: MessageBatch) -> bool:
        """Say whether the cluster takes live records of this partition now."""
        if not self._kafka.acknowledging:
            return False
        if not self._disk.writable:
            return True
        held = (batch.topic, batch.partition) in self._held
        return not held and self._kafka.memory_share < _SHARES[batch.stream or Stream.FLOWS]

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Publish what can be, and spool the rest; give up by "shutdown" after ``timeout``.

        It ends the drain: the next run continues it.
        """
        deadline = _now() + timeout
        await self._end_drain()
        await self._kafka.flush(timeout * _FLUSH_SHARE if self._kafka.acknowledging else 0)
        await self._disk.flush(max(deadline - _now(), DISK_S))
        await self._keeper.secure(deadline, ended=False)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then release everything; what the spool holds is durable by then."""
        if self._closed:
            return
        self._closed = True
        if not self._tasks:
            self._spool.close()
            return
        deadline = _now() + timeout
        await self._end_drain()
        for task in self._tasks:
            task.cancel()
        await self._kafka.close(timeout * _FLUSH_SHARE if self._kafka.acknowledging else 0)
        self._disk.refuse()
        await self._disk.flush(max(deadline - _now(), DISK_S))
        if not await self._keeper.secure(deadline, ended=True):
            self._fail("the disk did not confirm it")
        await self._disk.close(DISK_S)
        self._keeper.report.left(self._keeper.status)

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        """Records are published."""
        if batch.offsets:
            self._held.discard((batch.topic, batch.partition))
            self._drain.acknowledged(batch, part)
        else:
            self._books.ledgers.acknowledged(batch, part)

    def failed(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """Records are not published: they wait on disk, or are lost for good."""
        self._not_published(batch, part, cause, in_doubt=False)

    def in_doubt(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """Records may be published; if the cause is a passing one, they are sent again."""
        self._not_published(batch, part, cause, in_doubt=True)

    def _not_published(
        self, batch: MessageBatch, part: slice, cause: str, *, in_doubt: bool
    ) -> None:
        if cause in PASSING and cause != terms.SHUTDOWN:
            self._held.add((batch.topic, batch.partition))
        if batch.offsets:
            self._drain.failed(batch, part, cause, in_doubt=in_doubt)
        elif cause in PASSING:
            given_up = cause if in_doubt else terms.IO_ERROR
            self._disk.put_at_once(Parcel(batch.part(part), in_doubt, given_up))
        elif in_doubt:
            self._books.ledgers.in_doubt(batch, part, cause)
        else:
            self._books.ledgers.failed(batch, part, cause)

    def _drained(self, drained: Drained) -> None:
        """Every record of a batch from the spool has its outcome from the Kafka sink."""
        if not drained.again:
            self._books.drained(drained)
            self._disk.acknowledge(drained.spooled)
        elif drained.unanswered:
            self._disk.doubt(drained.spooled)

    def _written(self) -> None:
        self._keeper.wake()
        self._drain.wake()

    async def _end_drain(self) -> None:
        drain, *_ = self._tasks
        drain.cancel()
        await asyncio.wait([drain])

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", task=task.get_name(), exc_info=error)
            self._fail(repr(error))

    def _fail(self, why: str) -> None:
        if self._fault is None:
            self._fault = f"{self._spool.where}: {why}"


def _now() -> float:
    return asyncio.get_running_loop().time()

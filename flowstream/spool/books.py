"""The books of the spool: those of live runs in their ledgers, those of earlier runs amended."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting.outcomes import Gone
from flowstream.spool import runs
from flowstream.spool.live import LiveRun
from flowstream.spool.runs import EarlierRun
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.ledgers import Ledgers
    from flowstream.accounting.snapshot import Moment, SpoolState
    from flowstream.records import CountersRecord
    from flowstream.segments.spooled import Lost, SpooledBatch, Waiting
    from flowstream.spool.drain import Drained, Refused
    from flowstream.spool.parcel import Parcel
    from flowstream.spool.runs import SavedRun

    Amounts = Mapping[AttachmentKey, RecordAmount]

log = structlog.get_logger(__name__)


class Books:
    """Accounts for every record that enters and leaves the spool.

    Runs that have a ledger in ``ledgers`` are live: ``agent_epoch`` is the process's own,
    the others are those that it closes. Others are earlier runs. ``continued``: a next
    process goes on with the live runs.
    """

    def __init__(self, ledgers: Ledgers, agent_epoch: int, *, continued: bool = False) -> None:
        self.ledgers = ledgers
        self.agent_epoch = agent_epoch
        self._continued = continued
        self._live = {epoch: LiveRun(each) for epoch, each in ledgers.by_epoch().items()}
        self._earlier: dict[int, EarlierRun] = {}
        self.lost: Counter[str] = Counter()
        """Records that left the spool unpublished since the last log line, by cause."""

    def load(
        self, saved: Mapping[int, Sequence[bytes]], waiting: Mapping[Waiting, RecordAmount]
    ) -> None:
        """Take the books of earlier runs from the checkpoint, and what waits in the spool."""
        found: dict[int, SavedRun] = {}
        for agent_epoch, each in saved.items():
            try:
                found[agent_epoch] = runs.decode(agent_epoch, each)
            except ValueError as err:
                log.error("spool_books_damaged", error=str(err))  # noqa: TRY400 - from outside
        for agent_epoch, live in self._live.items():
            amounts: defaultdict[Stream, dict[AttachmentKey, RecordAmount]] = defaultdict(dict)
            for key, amount in waiting.items():
                if key.agent_epoch == agent_epoch and key.stream is not Stream.COUNTERS:
                    amounts[key.stream][key.attachment] = amount
            live.take_over(found.pop(agent_epoch, None), amounts)
        self._earlier = {epoch: EarlierRun(epoch, each) for epoch, each in found.items()}

    @property
    def topics(self) -> set[str]:
        """Topics of earlier runs' counters."""
        return {run.topic for run in self._earlier.values() if run.topic}

    def note(self, record: CountersRecord, topic: str) -> None:
        """Note a counters record of a live run, before it is published."""
        self._live[record.agent_epoch].note(record, topic)

    def close(self, agent_epoch: int) -> None:
        """Let a live run be an earlier one: its last counters record is final."""
        saved, _ = self._live.pop(agent_epoch).saved(ended=True)
        self._earlier[agent_epoch] = EarlierRun(agent_epoch, saved)

    def written(self, parcel: Parcel, part: slice) -> None:
        """Records are in the spool."""
        if (live := self._of(parcel)) is not None:
            live.ledger.spooled(parcel.batch, part)
        else:
            self._amended(parcel, written=True)

    def unwritten(self, parcel: Parcel, part: slice, cause: str) -> None:
        """Records could not be written to the spool."""
        if (live := self._of(parcel)) is None:
            self._amended(parcel, written=False)
        elif parcel.in_doubt:
            live.ledger.in_doubt(parcel.batch, part, parcel.cause)
        else:
            live.ledger.failed(parcel.batch, part, cause)

    def half_written(self, parcel: Parcel, part: slice, cause: str) -> None:
        """Records may have been written to the spool when the time was over."""
        # A next process sees whether they are there.
        if (live := self._of(parcel)) is not None and not self._continued:
            live.ledger.in_doubt(parcel.batch, part, cause)

    def _of(self, parcel: Parcel) -> LiveRun | None:
        return self._live.get(parcel.agent_epoch)

    def _amended(self, parcel: Parcel, *, written: bool) -> None:
        if parcel.seq is not None and parcel.agent_epoch in self._earlier:
            self._earlier[parcel.agent_epoch].settle(parcel.seq, written=written)

    def drained(self, drained: Drained) -> None:
        """Every record of a batch from the spool has its outcome."""
        spooled = drained.spooled
        own = spooled.agent_epoch == self.agent_epoch
        for part in drained.acknowledged:
            self._publish(spooled, part)
        for refused in drained.refused:
            if not own:
                self.lost[refused.cause] += refused.part.stop - refused.part.start
            for gone in _gone(spooled, refused):
                self._lose(gone)

    def _publish(self, spooled: SpooledBatch, part: slice) -> None:
        if spooled.agent_epoch is None or spooled.batch.stream in (None, Stream.COUNTERS):
            return
        run = self._live.get(spooled.agent_epoch) or self._earlier.get(spooled.agent_epoch)
        if run is not None:
            run.publish(spooled.batch.stream, _amounts(spooled, part))

    def lose(self, lost: Iterable[Lost]) -> None:
        """Records left the spool unpublished."""
        for each in lost:
            self.lost[each.cause] += each.records
            if each.agent_epoch is not None and each.stream is not None:
                self._lose(
                    Gone(each.agent_epoch, each.stream, each.amounts, each.cause, each.in_doubt)
                )

    def _lose(self, gone: Gone) -> None:
        run = self._live.get(gone.agent_epoch) or self._earlier.get(gone.agent_epoch)
        if run is not None:
            run.lose(gone)

    def amend(self, time: Moment, spool: SpoolState) -> None:
        """Put losses of earlier runs into their counters; ``saved``, then ``post``."""
        for run in self._earlier.values():
            run.amend(time, spool)

    def saved(
        self, epochs: frozenset[int], *, ended: bool = False
    ) -> tuple[dict[int, list[bytes]], Callable[[], None]]:
        """Return what the checkpoint keeps: live runs, and those whose records wait.

        The function says that it is written. Other runs are forgotten. ``ended``: this
        run makes no more counters records.
        """
        for epoch in [*self._earlier]:
            if epoch not in epochs and not self._earlier[epoch].is_due:
                del self._earlier[epoch]
        kept = {epoch: runs.encode(run.saved()) for epoch, run in self._earlier.items()}
        numbers: dict[int, int] = {}
        for epoch, live in self._live.items():
            if live.noted:
                over = ended and epoch == self.agent_epoch
                saved, numbers[epoch] = live.saved(ended=over)
                kept[epoch] = runs.encode(saved)

        def confirm() -> None:
            for epoch, number in numbers.items():
                if epoch in self._live:
                    self._live[epoch].confirm(number)

        return kept, confirm

    def post(self) -> Iterator[tuple[EarlierRun, CountersRecord]]:
        """Yield the counters records that earlier runs need; their outcomes follow."""
        for run in self._earlier.values():
            for record in run.post():
                yield run, record


class Written:
    """Outcomes of parcels: to the books, and those in the spool to the drain."""

    def __init__(self, books: Books, written: Callable[[], None]) -> None:
        self._books, self._on_written = books, written

    def acknowledged(self, batch: Parcel, part: slice) -> None:
        """Records are in the spool."""
        self._books.written(batch, part)
        self._on_written()

    def failed(self, batch: Parcel, part: slice, cause: str) -> None:
        """Records could not be written."""
        self._books.unwritten(batch, part, cause)

    def in_doubt(self, batch: Parcel, part: slice, cause: str) -> None:
        """Records may have been written."""
        self._books.half_written(batch, part, cause)


def _amounts(spooled: SpooledBatch, part: slice) -> Amounts:
    """Amounts of a part of a batch, as far as they are known."""
    batch = spooled.batch
    if batch.tally is not None:
        return dict(batch.tally[part].sums())
    return spooled.amounts if part == slice(0, len(batch)) else {}


def _gone(spooled: SpooledBatch, refused: Refused) -> Iterator[Gone]:
    if spooled.agent_epoch is not None and spooled.batch.stream is not None:
        amounts = _amounts(spooled, refused.part)
        yield Gone(
            spooled.agent_epoch, spooled.batch.stream, amounts, refused.cause, refused.in_doubt
        )

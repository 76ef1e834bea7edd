"""The books of the spool: its own run's in the ledger, those of earlier runs amended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting.outcomes import Gone
from flowstream.spool.runs import EarlierRun, OwnRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.accounting.ledger import Ledger
    from flowstream.accounting.snapshot import Moment, SpoolState
    from flowstream.accounting.tally import AttachmentKey
    from flowstream.records import CountersRecord
    from flowstream.segments.spooled import Lost, SpooledBatch
    from flowstream.spool.drain import Drained, Refused
    from flowstream.spool.parcel import Parcel

log = structlog.get_logger(__name__)


class Books:
    """Accounts for every record that enters and leaves the spool."""

    def __init__(self, ledger: Ledger, agent_epoch: int) -> None:
        self.ledger = ledger
        self.agent_epoch = agent_epoch
        self._own = OwnRun()
        self._earlier: dict[int, EarlierRun] = {}
        self.lost: Counter[str] = Counter()
        """Records that left the spool unpublished since the last log line, by cause."""

    def load(self, runs: Mapping[int, Sequence[bytes]]) -> None:
        """Take the books of earlier runs from the checkpoint."""
        for agent_epoch, saved in runs.items():
            try:
                self._earlier[agent_epoch] = EarlierRun(agent_epoch, saved)
            except ValueError as err:
                log.error("spool_books_damaged", error=str(err))  # noqa: TRY400 - from outside

    @property
    def topics(self) -> set[str]:
        """Topics of earlier runs' counters."""
        return {run.topic for run in self._earlier.values()}

    def note(self, record: CountersRecord, topic: str) -> None:
        """Note a counters record of this run, before it is published."""
        self._own.note(record, topic)

    def written(self, parcel: Parcel, part: slice) -> None:
        """Records are in the spool."""
        if parcel.agent_epoch == self.agent_epoch:
            self.ledger.spooled(parcel.batch, part)
        else:
            self._amended(parcel, written=True)

    def unwritten(self, parcel: Parcel, part: slice, cause: str) -> None:
        """Records could not be written to the spool."""
        if parcel.agent_epoch != self.agent_epoch:
            self._amended(parcel, written=False)
        elif parcel.in_doubt:
            self.ledger.in_doubt(parcel.batch, part, parcel.cause)
        else:
            self.ledger.failed(parcel.batch, part, cause)

    def half_written(self, parcel: Parcel, part: slice, cause: str) -> None:
        """Records may have been written to the spool when the time was over."""
        if parcel.agent_epoch == self.agent_epoch:
            self.ledger.in_doubt(parcel.batch, part, cause)

    def _amended(self, parcel: Parcel, *, written: bool) -> None:
        if parcel.seq is not None and parcel.agent_epoch in self._earlier:
            self._earlier[parcel.agent_epoch].settle(parcel.seq, written=written)

    def drained(self, drained: Drained) -> None:
        """Every record of a batch from the spool has its outcome."""
        if drained.spooled.agent_epoch == self.agent_epoch:
            self._own_drained(drained)
            return
        for refused in drained.refused:
            self.lost[refused.cause] += refused.part.stop - refused.part.start
            for gone in _gone(drained.spooled, refused):
                self._lose(gone)

    def _own_drained(self, drained: Drained) -> None:
        batch, ledger = drained.spooled.batch, self.ledger
        for part in drained.acknowledged:
            ledger.unspooled(batch, part)
            ledger.acknowledged(batch, part)
        for refused in drained.refused:
            ledger.unspooled(batch, refused.part)
            outcome = ledger.in_doubt if refused.in_doubt else ledger.failed
            outcome(batch, refused.part, refused.cause)
            for gone in _gone(drained.spooled, refused):
                self._own.lose(gone)

    def lose(self, lost: Iterable[Lost]) -> None:
        """Records left the spool unpublished."""
        for each in lost:
            self.lost[each.cause] += each.records
            if each.agent_epoch is not None and each.stream is not None:
                self._lose(
                    Gone(each.agent_epoch, each.stream, each.amounts, each.cause, each.in_doubt)
                )

    def _lose(self, gone: Gone) -> None:
        if gone.agent_epoch == self.agent_epoch:
            self.ledger.gone(gone)
            self._own.lose(gone)
        elif gone.agent_epoch in self._earlier:
            self._earlier[gone.agent_epoch].lose(gone)

    def amend(self, time: Moment, spool: SpoolState) -> None:
        """Put losses of earlier runs into their counters; ``saved``, then ``post``."""
        for run in self._earlier.values():
            run.amend(time, spool)

    def saved(self, epochs: frozenset[int], *, ended: bool = False) -> dict[int, list[bytes]]:
        """Return what the checkpoint keeps: the runs whose records wait, and this one.

        Others are forgotten. ``ended``: this run makes no more counters records.
        """
        for epoch in [*self._earlier]:
            if epoch not in epochs and not self._earlier[epoch].is_due:
                del self._earlier[epoch]
        own = {self.agent_epoch: self._own.saved(ended=ended)} if self._own.noted else {}
        return {epoch: run.saved() for epoch, run in self._earlier.items()} | own

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


def _gone(spooled: SpooledBatch, refused: Refused) -> Iterator[Gone]:
    batch, part = spooled.batch, refused.part
    if spooled.agent_epoch is None or batch.stream is None:
        return
    amounts: Mapping[AttachmentKey, RecordAmount] = {}
    if batch.tally is not None:
        amounts = dict(batch.tally[part].sums())
    elif part == slice(0, len(batch)):
        amounts = spooled.amounts
    yield Gone(spooled.agent_epoch, batch.stream, amounts, refused.cause, refused.in_doubt)

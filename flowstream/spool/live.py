"""The books of runs that still make records: the process's own, and those that it closes.

A record that was read from the spool waits there until the checkpoint says that it left:
a process that takes over after a kill finds it again. So its outcome is in the ledger,
and in counters records, once it is in the checkpoint.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.accounting.account import Account, Outcome
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.spool.runs import UNKNOWN_SEQS, LastCounters, LostRecords, SavedRun
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.accounting.outcomes import Gone
    from flowstream.records import CountersRecord


ENDED_KEPT: Final = 64
"""Attachments that went whose last counters are kept: in case that a crash loses the record."""


class Published(NamedTuple):
    """Records of one stream that were published from the spool, by attachment."""

    stream: Stream
    amounts: Mapping[AttachmentKey, RecordAmount]


class _Lost(NamedTuple):
    """``number`` counts what left the spool: the checkpoint has all up to some number."""

    number: int
    lost: LostRecords


class LiveRun:
    """A run's records in the spool, its last counters records, and what was lost since each."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._topic = ""
        self._next_seq = 0
        self._last: dict[AttachmentKey, LastCounters] = {}
        self._lost: dict[AttachmentKey, list[_Lost]] = {}
        self._ended: dict[AttachmentKey, None] = {}
        # What left the spool since the checkpoint that is known to be written.
        self._pending: deque[Published | Gone] = deque()
        self._left = self._confirmed = 0

    @property
    def noted(self) -> bool:
        """Whether it has anything for the checkpoint."""
        return bool(self._last or self._pending) or any(
            account.left != Outcome() for account in self.ledger.accounts().values()
        )

    def take_over(
        self,
        saved: SavedRun | None,
        waiting: Mapping[Stream, Mapping[AttachmentKey, RecordAmount]],
    ) -> None:
        """Continue the books of a process that has ended: what the disk has is right.

        The ledger may be behind or ahead of the checkpoint in what left the spool, and
        behind in what was written.
        """
        if saved is not None:
            self._topic, self._next_seq = saved.topic, saved.next_seq
            for each in saved.attachments:
                key = AttachmentKey.of_record(each.record)
                self._last[key] = LastCounters(each.record, each.due)
                self._lost[key] = [_Lost(-1, lost) for lost in each.lost]
            for key, left in saved.left:
                account = self.ledger.account(key)
                account.change(account.left, left)
                account.left = left
        for account in self.ledger.accounts().values():
            account.spool = RecordAmount()
        for stream, amounts in waiting.items():
            for key, amount in amounts.items():
                account = self.ledger.account(key)
                account.spool = account.spool.plus(amount)
                counts, gone = account.stage(stream), account.left.stage(stream)
                written = amount.records + gone.acknowledged + gone.failed
                counts.spooled = max(counts.spooled, written)

    def note(self, record: CountersRecord, topic: str) -> None:
        """Note a counters record, before it is published: it includes what the ledger has.

        Of attachments that went and have nothing in the spool, the last few are kept.
        """
        key = AttachmentKey.of_record(record)
        self._topic, self._next_seq = topic, record.seq + 1
        self._last[key] = LastCounters(record)
        self._lost[key] = [
            each for each in self._lost.get(key, ()) if each.number >= self._confirmed
        ]
        self._ended.pop(key, None)
        if record.final and not record.spool.records and not self._lost[key]:
            self._ended[key] = None
            if len(self._ended) > ENDED_KEPT:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self._last[oldest], self._lost[oldest]

    def publish(self, stream: Stream, amounts: Mapping[AttachmentKey, RecordAmount]) -> None:
        """Note records that were published from the spool."""
        self._leave(Published(stream, amounts))

    def lose(self, gone: Gone) -> None:
        """Note records that left the spool unpublished."""
        if gone.stream is Stream.COUNTERS:
            # The last one may be among them; a next run repeats it.
            for last in self._last.values():
                last.due = True
            return
        for key, amount in gone.amounts.items():
            lost = LostRecords(gone.stream, amount, gone.cause, gone.in_doubt)
            self._lost.setdefault(key, []).append(_Lost(self._left, lost))
        self._leave(gone)

    def _leave(self, what: Published | Gone) -> None:
        self._pending.append(what)
        self._left += 1

    def saved(self, *, ended: bool) -> tuple[SavedRun, int]:
        """Return the run for the checkpoint, and what to confirm once that is written.

        ``ended``: it makes no more counters records.
        """
        next_seq = self._next_seq if ended else self._next_seq + UNKNOWN_SEQS
        ahead = Ledger(
            {
                key: Account(left=copy.deepcopy(account.left))
                for key, account in self.ledger.accounts().items()
            }
        )
        for each in self._pending:
            _apply(each, ahead)
        left = [
            (key, account.left)
            for key, account in ahead.accounts().items()
            if account.left != Outcome()
        ]
        attachments = [
            LastCounters(last.record, last.due, [each.lost for each in self._lost.get(key, ())])
            for key, last in self._last.items()
        ]
        return SavedRun(self._topic, next_seq, attachments, left), self._left

    def confirm(self, number: int) -> None:
        """Count what left the spool, up to what ``saved`` said: the checkpoint has it."""
        while self._confirmed < number:
            _apply(self._pending.popleft(), self.ledger)
            self._confirmed += 1


def _apply(what: Published | Gone, ledger: Ledger) -> None:
    if isinstance(what, Published):
        ledger.unspooled(*what)
    else:
        ledger.gone(what)

"""The books of earlier runs whose records are in the spool, as the checkpoint keeps them.

What a later run loses of an earlier run's records is published in an amended counters
record of the earlier run (``flowstream.accounting.amended``). The checkpoint has it before
the spool does, so that a crash in between repeats it and changes nothing. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

# msgspec reads the annotations at run time.
from flowstream.accounting.account import Outcome
from flowstream.accounting.amended import amended
from flowstream.accounting.amounts import RecordAmount  # noqa: TC001
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.outcomes import Gone
from flowstream.records import CountersRecord  # noqa: TC001
from flowstream.streams import Stream
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowstream.accounting.snapshot import Moment, SpoolState

UNKNOWN_SEQS: Final = 1 << 20
"""More counters records than a run makes between the last checkpoint and its being killed."""


class LostRecords(msgspec.Struct, array_like=True, frozen=True):
    """A ``Gone`` of one attachment, to be encoded."""

    stream: Stream
    amount: RecordAmount
    cause: str
    in_doubt: bool


class LastCounters(msgspec.Struct, array_like=True):
    """The last counters record of an attachment.

    ``due``: it has to be published, perhaps again. ``lost`` is not in it yet.
    """

    record: CountersRecord
    due: bool = False
    lost: list[LostRecords] = []

    def gone(self, agent_epoch: int) -> Iterator[Gone]:
        """Yield what is not in the record yet."""
        key = AttachmentKey.of_record(self.record)
        for each in self.lost:
            yield Gone(agent_epoch, each.stream, {key: each.amount}, each.cause, each.in_doubt)


class SavedRun(msgspec.Struct, array_like=True):
    """What the checkpoint has of a run; ``next_seq`` is unused in its counters topic.

    ``left`` is what became of all its records that left the spool, by attachment.
    """

    topic: str
    next_seq: int
    attachments: list[LastCounters]
    left: list[tuple[AttachmentKey, Outcome]] = []


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(SavedRun).decode


def encode(run: SavedRun) -> list[bytes]:
    """Return a run for the checkpoint."""
    return [_ENCODE(run)]


def decode(agent_epoch: int, saved: Sequence[bytes]) -> SavedRun:
    """Read a run of the checkpoint; ValueError where it is damaged."""
    try:
        return _DECODE(saved[0])
    except (*UNDECODABLE, IndexError) as err:
        raise ValueError(f"books of the run {agent_epoch}: {err}") from err


class EarlierRun:
    """A run of the past whose records are in the spool."""

    def __init__(self, agent_epoch: int, saved: SavedRun) -> None:
        self.agent_epoch = agent_epoch
        self._books = saved
        self._left = dict(saved.left)
        # Records that are on their way to the spool.
        self._posted: set[int] = set()

    @property
    def topic(self) -> str:
        """Topic of its counters."""
        return self._books.topic

    @property
    def is_due(self) -> bool:
        """Whether a counters record of it has to be published."""
        return any(each.due or each.lost for each in self._books.attachments)

    def publish(self, stream: Stream, amounts: Mapping[AttachmentKey, RecordAmount]) -> None:
        """Note records of it that were published."""
        for key, amount in amounts.items():
            self._left.setdefault(key, Outcome()).publish(stream, amount)

    def lose(self, gone: Gone) -> None:
        """Note records of it that left the spool unpublished."""
        for attachment in self._books.attachments:
            amount = gone.amounts.get(AttachmentKey.of_record(attachment.record))
            if gone.stream is Stream.COUNTERS:
                # The last one may be among them.
                attachment.due = True
            elif amount is not None:
                lost = LostRecords(gone.stream, amount, gone.cause, gone.in_doubt)
                attachment.lost = [*attachment.lost, lost]
        if gone.stream is not Stream.COUNTERS:
            for key, amount in gone.amounts.items():
                gone.count(self._left.setdefault(key, Outcome()), amount)

    def amend(self, time: Moment, spool: SpoolState) -> None:
        """Put what was lost into the counters records; save them before they are posted."""
        for attachment in self._books.attachments:
            if attachment.lost:
                gone = attachment.gone(self.agent_epoch)
                attachment.record = amended(
                    attachment.record, gone, seq=self._books.next_seq, time=time, spool=spool
                )
                attachment.due, attachment.lost = True, []
                self._books.next_seq += 1

    def post(self) -> list[CountersRecord]:
        """Return the records that have to be published and are not on their way."""
        due = [each.record for each in self._books.attachments if each.due]
        due = [record for record in due if record.seq not in self._posted]
        self._posted.update(record.seq for record in due)
        return due

    def settle(self, seq: int, *, written: bool) -> None:
        """Note that a posted record is in the spool, or that it could not be written."""
        self._posted.discard(seq)
        for attachment in self._books.attachments:
            if written and attachment.record.seq == seq:
                attachment.due = False

    def saved(self) -> SavedRun:
        """Return the run for the checkpoint."""
        return msgspec.structs.replace(self._books, left=list(self._left.items()))

"""The books of the runs whose records are in the spool, as the checkpoint keeps them.

What a later run loses of an earlier run's records is published in an amended counters
record of the earlier run (``flowstream.accounting.amended``). The checkpoint has it before
the spool does, so that a crash in between repeats it and changes nothing. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from flowstream.accounting.amended import amended

# msgspec reads the annotations at run time.
from flowstream.accounting.amounts import RecordAmount  # noqa: TC001
from flowstream.accounting.outcomes import Gone
from flowstream.accounting.tally import AttachmentKey
from flowstream.records import CountersRecord  # noqa: TC001
from flowstream.streams import Stream
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.accounting.snapshot import Moment, SpoolState


_UNKNOWN_SEQS: Final = 1 << 20
"""More counters records than a run makes between the last checkpoint and its being killed."""


class _Lost(msgspec.Struct, array_like=True, frozen=True):
    """A ``Gone`` of one attachment, to be encoded."""

    stream: Stream
    amount: RecordAmount
    cause: str
    in_doubt: bool


class _Attachment(msgspec.Struct, array_like=True):
    """The last counters record of an attachment.

    ``due``: it has to be published, perhaps again. ``lost`` is not in it yet.
    """

    record: CountersRecord
    due: bool = False
    lost: list[_Lost] = []

    def gone(self, agent_epoch: int) -> Iterator[Gone]:
        key = AttachmentKey.of_record(self.record)
        for each in self.lost:
            yield Gone(agent_epoch, each.stream, {key: each.amount}, each.cause, each.in_doubt)


class _Books(msgspec.Struct, array_like=True):
    """What the checkpoint has of a run; ``next_seq`` is unused in its counters topic."""

    topic: str
    next_seq: int
    attachments: list[_Attachment]


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(_Books).decode


class OwnRun:
    """This run's last counters records, and what was lost since each of them."""

    def __init__(self) -> None:
        self._topic = ""
        self._next_seq = 0
        self._attachments: dict[AttachmentKey, _Attachment] = {}

    @property
    def noted(self) -> bool:
        """Whether it has made a counters record."""
        return bool(self._attachments)

    def note(self, record: CountersRecord, topic: str) -> None:
        """Note a counters record, which includes all losses so far, before it is published."""
        self._topic, self._next_seq = topic, record.seq + 1
        self._attachments[AttachmentKey.of_record(record)] = _Attachment(record)

    def lose(self, gone: Gone) -> None:
        """Note records of this run that left the spool unpublished."""
        if gone.stream is Stream.COUNTERS:
            # The last one may be among them; a next run repeats it.
            for attachment in self._attachments.values():
                attachment.due = True
            return
        for key, amount in gone.amounts.items():
            if key in self._attachments:
                lost = _Lost(gone.stream, amount, gone.cause, gone.in_doubt)
                self._attachments[key].lost = [*self._attachments[key].lost, lost]

    def saved(self, *, ended: bool) -> list[bytes]:
        """Return the run for the checkpoint; ``ended``: it makes no more counters records."""
        next_seq = self._next_seq if ended else self._next_seq + _UNKNOWN_SEQS
        return [_ENCODE(_Books(self._topic, next_seq, list(self._attachments.values())))]


class EarlierRun:
    """A run of the past whose records are in the spool. ValueError for damaged books."""

    def __init__(self, agent_epoch: int, saved: Sequence[bytes]) -> None:
        self.agent_epoch = agent_epoch
        try:
            self._books = _DECODE(saved[0])
        except (*UNDECODABLE, IndexError) as err:
            raise ValueError(f"books of the run {agent_epoch}: {err}") from err
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

    def lose(self, gone: Gone) -> None:
        """Note records of it that left the spool unpublished."""
        for attachment in self._books.attachments:
            amount = gone.amounts.get(AttachmentKey.of_record(attachment.record))
            if gone.stream is Stream.COUNTERS:
                # The last one may be among them.
                attachment.due = True
            elif amount is not None:
                lost = _Lost(gone.stream, amount, gone.cause, gone.in_doubt)
                attachment.lost = [*attachment.lost, lost]

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

    def saved(self) -> list[bytes]:
        """Return the run for the checkpoint."""
        return [_ENCODE(self._books)]

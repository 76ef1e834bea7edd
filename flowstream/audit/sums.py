"""Sums of one run out of its records, and where the topics begin."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.audit.repeats import Repeats
from flowstream.audit.seqs import SeqSet
from flowstream.records import StageCounts
from flowstream.records.counters import NO_STAGE
from flowstream.streams import FLOW_STREAMS, Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.messages import Message
    from flowstream.records import CountersRecord

_AMOUNT: Final = ("packets", "l2_bytes")
_LOSS: Final = ("records", *_AMOUNT)
_amount: Final = attrgetter(*_AMOUNT)
_loss: Final = attrgetter(*_LOSS)
_stage: Final = attrgetter(*StageCounts.__struct_fields__)
COUNTS: Final = (
    "seen_packets",
    "seen_l2_bytes",
    *(f"no_flow.{unit}" for unit in _AMOUNT),
    *(f"{name}.{unit}" for name in ("losses", "in_doubt") for unit in _LOSS),
    *(
        f"stages.{stream}.{name}"
        for stream in FLOW_STREAMS
        for name in StageCounts.__struct_fields__
    ),
)
"""Names of what ``cumulative`` returns."""


@dataclass(slots=True)
class RunAccounts:
    """Sums of one run per attachment, and its sequences per topic.

    ``partitions`` has the lowest number in each partition; ``published`` has an entry
    for every attachment that any record names; ``counters`` the last record of each,
    ``highest`` the most of each of ``cumulative`` in any of them. ``previous`` has the
    lowest and the highest ``previous_epoch`` of the attachments that name one.
    ``announced_packets`` are packets of announcements, which have none.
    """

    seqs: dict[Stream, SeqSet] = field(default_factory=lambda: {s: SeqSet() for s in Stream})
    partitions: dict[Stream, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    published: dict[AttachmentKey, RecordAmount] = field(default_factory=dict)
    counters: dict[AttachmentKey, CountersRecord] = field(default_factory=dict)
    highest: dict[AttachmentKey, tuple[int, ...]] = field(default_factory=dict)
    previous: dict[AttachmentKey, tuple[int, int]] = field(default_factory=dict)
    repeats: dict[Stream, Repeats] = field(default_factory=lambda: {s: Repeats() for s in Stream})
    announced_packets: int = 0

    def note_partition(self, stream: Stream, partition: int, seq: int) -> None:
        """Note a record's partition and number."""
        lowest = self.partitions[stream]
        lowest[partition] = min(seq, lowest.get(partition, seq))

    def note_seqs(
        self, stream: Stream, seqs: NDArray[np.uint64], contents: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Note numbers and the digests of their records; return which numbers are new."""
        fresh = self.seqs[stream].add(seqs)
        self.repeats[stream].note(seqs[~fresh], contents[~fresh])
        return fresh

    def note_counters(self, record: CountersRecord) -> None:
        """Note a counters record, of which the last of each attachment counts."""
        key = AttachmentKey.of_record(record)
        last = self.counters.get(key)
        if last is None or record.seq > last.seq:
            self.counters[key] = record
        counts = cumulative(record)
        self.highest[key] = tuple(map(max, counts, self.highest.get(key, counts)))
        if epoch := record.previous_epoch:
            low, high = self.previous.get(key, (epoch, epoch))
            self.previous[key] = min(low, epoch), max(high, epoch)

    def predecessors(self, key: AttachmentKey) -> list[int]:
        """Runs that the attachment's counters name as the one before: at most two."""
        return sorted(set(self.previous.get(key, ())))

    @property
    def ended(self) -> bool:
        """Whether all counters are final: only then the number of records made is known."""
        return self.published.keys() <= self.counters.keys() and all(
            record.final for record in self.counters.values()
        )


class Begins:
    """Where the partitions of a topic begin: above offset 0 once retention has deleted records."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}

    def note(self, message: Message) -> None:
        """Note a message, of which the first in each partition counts."""
        place = message.offset, message.timestamp_ms
        self._first[message.partition] = min(place, self._first.get(message.partition, place))

    @property
    def trimmed(self) -> dict[int, int]:
        """Partitions that begin above offset 0, with the time of their first message."""
        return {
            partition: time_ms for partition, (offset, time_ms) in self._first.items() if offset
        }


def cumulative(record: CountersRecord) -> tuple[int, ...]:
    """Counts of a record that never fall from one record to the next; ``COUNTS`` names them.

    A map is summed whole, so their number does not depend on the record.
    """
    stages = record.stages
    return (
        record.seen_packets,
        record.seen_l2_bytes,
        *map(sum, zip((0, 0), *map(_amount, record.no_flow.values()), strict=True)),
        *map(sum, zip((0, 0, 0), *map(_loss, record.losses.values()), strict=True)),
        *map(sum, zip((0, 0, 0), *map(_loss, record.in_doubt.values()), strict=True)),
        *_stage(stages.get(Stream.FLOWS, NO_STAGE)),
        *_stage(stages.get(Stream.NEW_FLOWS, NO_STAGE)),
    )

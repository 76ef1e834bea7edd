"""The loss equation of a run, from its sums and its last counters records."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.tally import AttachmentKey
from flowstream.accounting.terms import IN_DOUBT, LOSSES, NO_FLOW
from flowstream.audit.repeats import Repeats
from flowstream.audit.result import GAPS_SHOWN, Amount, Interface, Run, Topic
from flowstream.audit.seqs import SeqSet
from flowstream.audit.verdict import notes, problems
from flowstream.records import StageCounts
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.audit.columns import RunKey
    from flowstream.messages import Message
    from flowstream.records import CountersRecord

_T = TypeVar("_T")


@dataclass(slots=True)
class RunAccounts:
    """Sums of one run per attachment, and its sequences per topic.

    ``partitions`` has the lowest number in each partition; ``published`` has an entry
    for every attachment that any record names; ``counters`` the last record of each,
    ``most_seen`` the highest count of all of them. ``announced_packets`` are packets
    of announcements, which have none.
    """

    seqs: dict[Stream, SeqSet] = field(default_factory=lambda: {s: SeqSet() for s in Stream})
    partitions: dict[Stream, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    published: dict[AttachmentKey, RecordAmount] = field(default_factory=dict)
    counters: dict[AttachmentKey, CountersRecord] = field(default_factory=dict)
    most_seen: dict[AttachmentKey, Amount] = field(default_factory=dict)
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
        key = AttachmentKey(record.if_index, record.flow_direction)
        last = self.counters.get(key)
        if last is None or record.seq > last.seq:
            self.counters[key] = record
        most = self.most_seen.get(key, Amount(0, 0))
        self.most_seen[key] = Amount(
            max(most.packets, record.seen_packets), max(most.l2_bytes, record.seen_l2_bytes)
        )

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


def balance(
    key: RunKey,
    run: RunAccounts,
    topics: Mapping[Stream, str],
    begins: Mapping[Stream, Begins],
) -> Run:
    """Result of one run; ``topics`` has the name of each stream's topic, ``begins`` its begin."""
    attachments = sorted(run.counters.keys() | run.published.keys())
    interfaces = [_interface(attachment, run) for attachment in attachments]
    sequences = _sequences(run, topics, begins)
    return Run(
        host_id=key.host_id.hex(),
        host=next((record.host for record in run.counters.values()), ""),
        agent_epoch=key.agent_epoch,
        interfaces=interfaces,
        topics=sequences,
        problems=problems(interfaces, sequences, run.announced_packets),
        notes=notes(interfaces, sequences),
    )


def _interface(key: AttachmentKey, run: RunAccounts) -> Interface:
    published = run.published.get(key, RecordAmount())
    flows = Amount(published.packets, published.l2_bytes)
    record = run.counters.get(key)
    if record is None:
        return Interface(
            if_index=key.if_index,
            if_name="",
            flow_direction=key.flow_direction,
            counters=False,
            final=False,
            seen=Amount(0, 0),
            most_seen=Amount(0, 0),
            flows=flows,
            no_flow={},
            losses={},
            in_doubt={},
            difference=Amount(-flows.packets, -flows.l2_bytes),
        )
    no_flow = {
        reason: Amount(amount.packets, amount.l2_bytes)
        for reason, amount in _ordered(record.no_flow, NO_FLOW).items()
    }
    explained = Amount.total([flows, *no_flow.values(), *record.losses.values()])
    return Interface(
        if_index=key.if_index,
        if_name=record.if_name,
        flow_direction=key.flow_direction,
        counters=True,
        final=record.final,
        seen=Amount(record.seen_packets, record.seen_l2_bytes),
        most_seen=run.most_seen[key],
        flows=flows,
        no_flow=no_flow,
        losses=_ordered(record.losses, LOSSES),
        in_doubt=_ordered(record.in_doubt, IN_DOUBT),
        difference=Amount(
            record.seen_packets - explained.packets, record.seen_l2_bytes - explained.l2_bytes
        ),
    )


def _ordered(terms: Mapping[str, _T], known: Iterable[str]) -> dict[str, _T]:
    """Terms in the order of those that are known; the others follow by name."""
    names = [*(name for name in known if name in terms), *sorted(terms.keys() - set(known))]
    return {name: terms[name] for name in names}


def _sequences(
    run: RunAccounts, topics: Mapping[Stream, str], begins: Mapping[Stream, Begins]
) -> list[Topic]:
    # The counters do not say which stream a record in doubt belongs to. No more of a
    # stream are in doubt than have no other outcome, and no more of all than counted.
    in_doubt = sum(
        loss.records for record in run.counters.values() for loss in record.in_doubt.values()
    )
    found = []
    for stream, name in topics.items():
        # Counters of counters there are none; a stage that is not there counts nothing.
        stages = [
            record.stages.get(stream, StageCounts(0, 0, 0, 0, 0, 0, 0))
            for record in run.counters.values()
            if stream is not Stream.COUNTERS
        ]
        unanswered = sum(each.encoded - each.acknowledged - each.failed for each in stages)
        share = min(max(unanswered, 0), in_doubt)
        in_doubt -= share
        found.append(_topic(stream, name, run, stages, share, begins[stream].trimmed))
    return found


def _topic(
    stream: Stream,
    name: str,
    run: RunAccounts,
    stages: list[StageCounts],
    in_doubt: int,
    trimmed: Mapping[int, int],
) -> Topic:
    seqs = run.seqs[stream]
    expected = sum(each.encoded for each in stages) if stages and run.ended else None
    seen = 0 if seqs.highest is None else seqs.highest + 1
    end = seen if expected is None else expected
    # A partition without a record of this run may have had any of it.
    kept_from = [run.partitions[stream].get(partition, end) for partition in trimmed]
    deleted = seqs.missing(min(max(kept_from, default=0), end))
    return Topic(
        topic=name,
        stream=stream,
        records=seqs.count,
        first_seq=seqs.lowest,
        last_seq=seqs.highest,
        expected=expected,
        failed=sum(each.failed for each in stages),
        in_doubt=in_doubt,
        missing=seqs.missing(end),
        deleted=deleted,
        complete_from_ms=max(trimmed.values()) if deleted else None,
        gaps=list(islice(seqs.gaps(end), GAPS_SHOWN)),
        duplicates=seqs.duplicates,
        conflicts=run.repeats[stream].conflicts,
        partitions=len(run.partitions[stream]),
    )

"""The loss equation of a run, from its sums and its last counters records."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.terms import IN_DOUBT, LOSSES, NO_FLOW
from flowstream.audit.notes import notes
from flowstream.audit.result import GAPS_SHOWN, Amount, Interface, Run, Topic
from flowstream.audit.sums import COUNTS, cumulative
from flowstream.audit.verdict import problems
from flowstream.records.counters import EMPTY_SPOOL, NO_STAGE
from flowstream.streams import FLOW_STREAMS, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.audit.columns import RunKey
    from flowstream.audit.sums import Begins, RunAccounts
    from flowstream.records import CountersRecord

_T = TypeVar("_T")


class _Unanswered(NamedTuple):
    """Records of one stream that may be in its topic or not."""

    in_doubt: int = 0
    waiting: int = 0

    def plus(self, other: _Unanswered) -> _Unanswered:
        return _Unanswered(self.in_doubt + other.in_doubt, self.waiting + other.waiting)


def balance(
    key: RunKey,
    run: RunAccounts,
    topics: Mapping[Stream, str],
    begins: Mapping[Stream, Begins],
    *,
    successors: Mapping[AttachmentKey, list[int]],
    spool_emptied: bool,
) -> Run:
    """Result of one run.

    ``topics`` has the name of each stream's topic, ``begins`` its begin. ``successors``
    are the runs that name this one as the one before. ``spool_emptied``: a later run of
    the host says that its spool is empty.
    """
    attachments = sorted(run.counters.keys() | run.published.keys())
    interfaces = [
        _interface(attachment, run, successors.get(attachment, [])) for attachment in attachments
    ]
    sequences = _sequences(run, topics, begins)
    host = next((record.host for record in run.counters.values()), "")
    return Run(
        host_id=key.host_id.hex(),
        host=host,
        agent_epoch=key.agent_epoch,
        interfaces=interfaces,
        topics=sequences,
        problems=problems(interfaces, sequences, run.announced_packets),
        notes=notes(interfaces, sequences, host, spool_emptied=spool_emptied),
    )


def _interface(key: AttachmentKey, run: RunAccounts, successors: list[int]) -> Interface:
    published = run.published.get(key, RecordAmount())
    flows = Amount(published.packets, published.l2_bytes)
    record = run.counters.get(key)
    if record is None:
        return Interface(
            if_index=key.if_index,
            if_name="",
            netns="",
            flow_direction=key.flow_direction,
            counters=False,
            final=False,
            seen=Amount(0, 0),
            backwards={},
            flows=flows,
            no_flow={},
            losses={},
            in_doubt={},
            spool=EMPTY_SPOOL,
            stages={},
            difference=Amount(-flows.packets, -flows.l2_bytes),
            previous_epochs=[],
            next_epochs=successors,
        )
    no_flow = {
        reason: Amount(amount.packets, amount.l2_bytes)
        for reason, amount in _ordered(record.no_flow, NO_FLOW).items()
    }
    explained = Amount.total([flows, *no_flow.values(), *record.losses.values()])
    return Interface(
        if_index=key.if_index,
        if_name=record.if_name,
        netns=record.netns,
        flow_direction=key.flow_direction,
        counters=True,
        final=record.final,
        seen=Amount(record.seen_packets, record.seen_l2_bytes),
        backwards={
            name: (highest, last)
            for name, highest, last in zip(
                COUNTS, run.highest[key], cumulative(record), strict=True
            )
            if highest > last
        },
        flows=flows,
        no_flow=no_flow,
        losses=_ordered(record.losses, LOSSES),
        in_doubt=_ordered(record.in_doubt, IN_DOUBT),
        spool=record.spool,
        stages=record.stages,
        difference=Amount(
            record.seen_packets - explained.packets, record.seen_l2_bytes - explained.l2_bytes
        ),
        previous_epochs=run.predecessors(key),
        next_epochs=successors,
    )


def _ordered(terms: Mapping[str, _T], known: Iterable[str]) -> dict[str, _T]:
    """Terms in the order of those that are known; the others follow by name."""
    names = [*(name for name in known if name in terms), *sorted(terms.keys() - set(known))]
    return {name: terms[name] for name in names}


def _sequences(
    run: RunAccounts, topics: Mapping[Stream, str], begins: Mapping[Stream, Begins]
) -> list[Topic]:
    unanswered = dict.fromkeys(Stream, _Unanswered())
    for record in run.counters.values():
        for stream, its in _unanswered(record).items():
            unanswered[stream] = unanswered[stream].plus(its)
    return [
        _topic(stream, name, run, unanswered[stream], begins[stream].trimmed)
        for stream, name in topics.items()
    ]


def _unanswered(record: CountersRecord) -> dict[Stream, _Unanswered]:
    """Records in doubt and in the spool, by stream.

    The counters have their sums over both streams. Of each stream as many are in doubt or
    wait as have no other outcome; which of the two they are may be mistaken.
    """
    in_doubt = sum(loss.records for loss in record.in_doubt.values())
    waiting = record.spool.records
    found = {}
    for stream in FLOW_STREAMS:
        stage = record.stages.get(stream, NO_STAGE)
        rest = max(stage.encoded - stage.acknowledged - stage.failed, 0)
        doubtful = min(rest, in_doubt)
        found[stream] = _Unanswered(doubtful, min(rest - doubtful, waiting))
        in_doubt -= doubtful
        waiting -= found[stream].waiting
    return found


def _topic(
    stream: Stream,
    name: str,
    run: RunAccounts,
    unanswered: _Unanswered,
    trimmed: Mapping[int, int],
) -> Topic:
    # Nothing counts the records of counters; a stage that is not there counts nothing.
    stages = [
        record.stages.get(stream, NO_STAGE)
        for record in run.counters.values()
        if stream in FLOW_STREAMS
    ]
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
        in_doubt=unanswered.in_doubt,
        waiting=unanswered.waiting,
        missing=seqs.missing(end),
        deleted=deleted,
        complete_from_ms=max(trimmed.values()) if deleted else None,
        gaps=list(islice(seqs.gaps(end), GAPS_SHOWN)),
        duplicates=seqs.duplicates,
        conflicts=run.repeats[stream].conflicts,
        partitions=len(run.partitions[stream]),
    )

"""The verdict on the accounts of a run, in sentences that name the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.audit.result import Amount
from flowstream.audit.texts import RECORDS_ARE, amount_text, gaps_text, run_text, runs_text
from flowstream.streams import Stream
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.audit.result import Interface, Topic

_DELETED: Final = ", or deleted since"
_NO_CAUSE: Final = "without a cause"
_NOT_ENDED: Final = "of a run that has no end: on their way, or lost when it was killed"
_NOTHING: Final = Amount(0, 0)


def problems(
    interfaces: Sequence[Interface], topics: Sequence[Topic], announced_packets: int
) -> list[str]:
    """Every reason why the accounts of a run do not hold."""
    flows = [topic for topic in topics if topic.stream is Stream.FLOWS]
    return [
        *(text for each in interfaces for text in _of_counters(each)),
        *(text for each in interfaces for text in _of_interface(each, flows)),
        *_of_unanswered(interfaces, sum(topic.unpublished for topic in flows)),
        *(text for topic in topics for text in _of_topic(topic)),
        *_of_announcements(announced_packets),
    ]


def _of_counters(interface: Interface) -> Iterator[str]:
    """Contradictions of the counters records themselves."""
    if interface.backwards:
        counts = (
            f"{name} {highest:,}, then {last:,}"
            for name, (highest, last) in interface.backwards.items()
        )
        yield f"{interface.label}: counts went backwards: {'; '.join(counts)}"
    if len(interface.previous_epochs) > 1:
        yield (
            f"{interface.label}: its counters name several runs as the one before: "
            f"{runs_text(interface.previous_epochs)}"
        )
    stages = interface.stages.values()
    encoded, acknowledged, failed, spooled = (
        sum(getattr(stage, name) for stage in stages)
        for name in ("encoded", "acknowledged", "failed", "spooled")
    )
    doubtful = sum(loss.records for loss in interface.in_doubt.values())
    waiting = interface.spool.records
    outcomes = acknowledged + failed + doubtful + waiting
    if interface.final and encoded != outcomes:
        yield (
            f"{interface.label}: the final counters contradict themselves: {encoded:,} records "
            f"got a seq, {outcomes:,} have an outcome ({acknowledged:,} acknowledged, "
            f"{failed:,} failed, {doubtful:,} in doubt, {waiting:,} in the spool)"
        )
    if waiting > spooled:
        yield (
            f"{interface.label}: the counters contradict themselves: {waiting:,} records in the "
            f"spool, {spooled:,} ever written to it"
        )


def _of_interface(interface: Interface, flows: Sequence[Topic]) -> Iterator[str]:
    off = interface.difference
    amount = amount_text(off, "+,")
    least, most = _bounds(interface, flows)
    if not interface.counters:
        yield f"{interface.label}: published records, but no counters record to compare them with"
    elif not interface.final:
        why, remedy = _not_closed(interface)
        yield (
            f"{interface.label}: {why}: no final counters, so the equation cannot be exact "
            f"(difference {amount}{_spooled(interface)}){remedy}"
        )
    elif off.packets < 0 or off.l2_bytes < 0:
        yield (
            f"{interface.label}: difference of {amount}: "
            "published or counted as lost, but not seen"
        )
    elif off.packets > most.packets or off.l2_bytes > most.l2_bytes:
        deleted = _DELETED if any(topic.deleted for topic in flows) else ""
        yield (
            f"{interface.label}: difference of {amount}: "
            f"seen, but neither published nor counted as lost{deleted}{_beyond(interface, most)}"
        )
    elif off.packets < least.packets or off.l2_bytes < least.l2_bytes:
        yield (
            f"{interface.label}: difference of {amount}, too small: none of the records "
            f"{_where(interface)} is published, and they stand for {amount_text(least)}"
        )


def _not_closed(interface: Interface) -> tuple[str, str]:
    """Why there are no final counters, and what the operator can do about it."""
    if interface.next_epochs:
        why = f"the {run_text(interface.next_epochs[0])} took over and has not closed this one"
        return why, "; audit again, and if it stays so, look into the log of that agent"
    if interface.previous_epochs:
        remedy = (
            "its agent runs, or the kernel goes on counting: then the next agent with the same "
            "--pin publishes the rest and closes the run, or flowstream detach ends the chain"
        )
        return "the chain goes on", f"; {remedy}"
    return "run did not end cleanly", ""


def _bounds(interface: Interface, flows: Sequence[Topic]) -> tuple[Amount, Amount]:
    """Least and most that the difference may be, by the records without a known outcome.

    All of them while none is published; once all are, nothing but packets that a killed
    agent had in its memory and in no record with a ``seq``.
    """
    unpublished = sum(topic.unpublished for topic in flows)
    unanswered = sum(topic.unanswered for topic in flows)
    if unpublished:
        most = Amount.total((interface.doubtful, interface.waiting))
    else:
        most = interface.killed
    certain = all(topic.expected is not None and not topic.deleted for topic in flows)
    return (most if certain and unpublished == unanswered else _NOTHING), most


def _spooled(interface: Interface) -> str:
    waiting = interface.spool
    if not waiting.records:
        return ""
    records = counted(waiting.records, "record was", "records were")
    return f"; {records} in its spool, of {counted(waiting.packets, 'packet')}"


def _where(interface: Interface) -> str:
    """Places of the records without a known outcome."""
    if not interface.spool.records:
        return "in doubt"
    return "in doubt or in the spool" if interface.doubtful.packets else "in the spool"


def _beyond(interface: Interface, most: Amount) -> str:
    if Amount.total((interface.doubtful, interface.waiting)) == _NOTHING:
        return ""
    if most == _NOTHING:
        return f", and every record {_where(interface)} was published"
    return f", and only {amount_text(most)} are {_where(interface)}"


def _of_unanswered(interfaces: Sequence[Interface], unpublished: int) -> Iterator[str]:
    # A record belongs to one interface; a killed agent had packets in none.
    differing = sum(
        each.counters and each.difference != _NOTHING and each.killed == _NOTHING
        for each in interfaces
    )
    if differing > unpublished > 0:
        spooled = any(each.spool.records for each in interfaces)
        yield (
            f"{differing:,} interfaces have a difference, and only {unpublished:,} of the records "
            f"in doubt{' or in the spool' if spooled else ''} are not published"
        )


def _of_announcements(packets: int) -> Iterator[str]:
    if packets:
        packet = counted(packets, "packet, which is", "packets, which are")
        yield f"announcements of {packet} counted in flow records"


def _of_topic(topic: Topic) -> Iterator[str]:
    if topic.conflicts:
        yield (
            f"{topic.topic}: {topic.conflicts:,} seq occur with different contents: another "
            "agent of the same identity, or records that none made"
        )
    # Counters are cumulative: a lost record is made up for by the next.
    if topic.stream is Stream.COUNTERS:
        return
    if topic.deleted and topic.complete_from_ms is not None:
        yield (
            f"{topic.topic}: cannot be checked before {_time(topic.complete_from_ms)}: "
            f"retention deleted records (partitions begin above offset 0), up to "
            f"{topic.deleted:,} of this run"
        )
    unexplained = topic.missing - topic.failed - topic.unanswered - topic.deleted
    if unexplained > 0:
        failed = f", {topic.failed:,} counted as lost" if topic.failed else ""
        doubtful = f", {topic.in_doubt:,} in doubt" if topic.in_doubt else ""
        waiting = f", {topic.waiting:,} in the spool" if topic.waiting else ""
        why = _NO_CAUSE if topic.expected is not None else _NOT_ENDED
        yield (
            f"{topic.topic}: {counted(unexplained, *RECORDS_ARE)} missing {why} "
            f"({topic.missing:,} not there{failed}{doubtful}{waiting}; "
            f"seq {gaps_text(topic)})"
        )
    end = 0 if topic.last_seq is None else topic.last_seq + 1
    if topic.expected is not None and end > topic.expected:
        made = counted(topic.expected, "record")
        yield f"{topic.topic}: seq {topic.last_seq:,} lies beyond the {made} that the run made"


def _time(time_ms: int) -> str:
    # A value from outside, which datetime might refuse.
    return f"{np.datetime64(time_ms, 'ms')}Z"

"""The verdict on the accounts of a run, in sentences that name the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.audit.result import GAPS_SHOWN, Amount
from flowstream.streams import Stream
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.audit.result import Interface, Topic

_DELETED: Final = ", or deleted since"
_RECORDS: Final = ("record is", "records are")


def problems(
    interfaces: Sequence[Interface], topics: Sequence[Topic], announced_packets: int
) -> list[str]:
    """Every reason why the accounts of a run do not hold."""
    # Once all records in doubt turn out to be published, nothing else may differ.
    flows = [topic for topic in topics if topic.stream is Stream.FLOWS]
    unpublished = sum(map(_unpublished, flows))
    deleted = any(topic.deleted for topic in flows)
    return [
        *(
            text
            for interface in interfaces
            for text in _of_interface(interface, doubt=unpublished > 0, deleted=deleted)
        ),
        *_of_doubts(interfaces, unpublished),
        *(text for topic in topics for text in _of_topic(topic)),
        *_of_announcements(announced_packets),
    ]


def notes(interfaces: Sequence[Interface], topics: Sequence[Topic]) -> list[str]:
    """Facts about a run that are worth knowing and harmless."""
    return [
        *(text for interface in interfaces for text in _doubts(interface)),
        *(text for topic in topics for text in _notes(topic)),
    ]


def in_doubt(interface: Interface) -> Amount:
    """Packets and octets of all records in doubt."""
    return Amount.total(interface.in_doubt.values())


def _of_interface(interface: Interface, *, doubt: bool, deleted: bool) -> Iterator[str]:
    off, seen, most = interface.difference, interface.seen, interface.most_seen
    if most.packets > seen.packets or most.l2_bytes > seen.l2_bytes:
        yield (
            f"{interface.label}: counts went backwards: {counted(most.packets, 'packet')} "
            f"and {counted(most.l2_bytes, 'octet')} seen in a record before the last"
        )
    packets = counted(off.packets, "packet", form="+,")
    amount = f"{packets} and {counted(off.l2_bytes, 'octet', form='+,')}"
    doubtful = in_doubt(interface)
    allowed = doubtful if doubt else Amount(0, 0)
    if not interface.counters:
        yield f"{interface.label}: published records, but no counters record to compare them with"
    elif not interface.final:
        yield (
            f"{interface.label}: run did not end cleanly: no final counters, so the equation "
            f"cannot be exact (difference {amount})"
        )
    elif off.packets < 0 or off.l2_bytes < 0:
        yield (
            f"{interface.label}: difference of {amount}: "
            "published or counted as lost, but not seen"
        )
    elif off.packets > allowed.packets or off.l2_bytes > allowed.l2_bytes:
        yield (
            f"{interface.label}: difference of {amount}: "
            f"seen, but neither published nor counted as lost{_DELETED if deleted else ''}"
            f"{_beyond_doubt(doubtful, doubt=doubt)}"
        )


def _of_doubts(interfaces: Sequence[Interface], unpublished: int) -> Iterator[str]:
    # A record belongs to one interface.
    differing = sum(each.counters and each.difference != Amount(0, 0) for each in interfaces)
    if differing > unpublished > 0:
        yield (
            f"{differing:,} interfaces have a difference, and only {unpublished:,} of the records "
            "in doubt are not published"
        )


def _of_announcements(packets: int) -> Iterator[str]:
    if packets:
        packet = counted(packets, "packet, which is", "packets, which are")
        yield f"announcements of {packet} counted in flow records"


def _beyond_doubt(doubtful: Amount, *, doubt: bool) -> str:
    if not doubtful.packets:
        return ""
    if not doubt:
        return ", and every record in doubt was published"
    packets = counted(doubtful.packets, "packet")
    return f", and only {packets} and {counted(doubtful.l2_bytes, 'octet')} are in doubt"


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
    unexplained = topic.missing - topic.failed - topic.in_doubt - topic.deleted
    if unexplained > 0:
        failed = f", {topic.failed:,} were counted as lost" if topic.failed else ""
        doubtful = f", {topic.in_doubt:,} were in doubt" if topic.in_doubt else ""
        yield (
            f"{topic.topic}: {counted(unexplained, *_RECORDS)} missing without a cause "
            f"({topic.missing:,} are not there{failed}{doubtful}; seq {_ranges(topic)})"
        )
    end = 0 if topic.last_seq is None else topic.last_seq + 1
    if topic.expected is not None and end > topic.expected:
        yield (
            f"{topic.topic}: seq {topic.last_seq:,} lies beyond the {topic.expected:,} records "
            "that the run made"
        )


def _doubts(interface: Interface) -> Iterator[str]:
    doubtful = in_doubt(interface)
    if doubtful.packets:
        yield (
            f"{interface.label}: {counted(doubtful.packets, 'packet')} and "
            f"{counted(doubtful.l2_bytes, 'octet')} in doubt: sent and never answered"
        )


def _notes(topic: Topic) -> Iterator[str]:
    if topic.duplicates:
        duplicates = counted(topic.duplicates, "duplicate")
        yield f"{topic.topic}: {duplicates}, recognised by seq and not summed"
    if topic.stream is Stream.COUNTERS:
        if topic.missing:
            yield (
                f"{topic.topic}: {counted(topic.missing, *_RECORDS)} missing (seq "
                f"{_ranges(topic)}), "
                "which loses nothing of interfaces with a later one: the counts are cumulative"
            )
    elif 0 < topic.missing <= topic.failed:
        yield f"{topic.topic}: {counted(topic.missing, *_RECORDS)} missing, counted as lost"
    if topic.in_doubt:
        arrived = topic.in_doubt - _unpublished(topic)
        doubt = counted(topic.in_doubt, "record")
        yield f"{topic.topic}: {doubt} in doubt, {arrived:,} of them published"
    if topic.expected is not None and topic.missing < topic.failed:
        there = counted(topic.failed - topic.missing, "record that was", "records that were")
        yield f"{topic.topic}: {there} counted as lost but published all the same"


def _unpublished(topic: Topic) -> int:
    """How many of the records in doubt are not in the topic."""
    return min(max(topic.missing - topic.failed - topic.deleted, 0), topic.in_doubt)


def _time(time_ms: int) -> str:
    # A value from outside, which datetime might refuse.
    return f"{np.datetime64(time_ms, 'ms')}Z"


def _ranges(topic: Topic) -> str:
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in topic.gaps]
    return ", ".join(shown) + (", ..." if len(topic.gaps) == GAPS_SHOWN else "")

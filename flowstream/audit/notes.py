"""Facts about a run that are worth knowing and harmless, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.accounting.terms import AGENT_KILLED
from flowstream.audit.result import Amount
from flowstream.audit.texts import RECORDS_ARE, amount_text, gaps_text
from flowstream.streams import Stream
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.audit.result import Interface, Topic


def notes(
    interfaces: Sequence[Interface], topics: Sequence[Topic], host: str, *, spool_emptied: bool
) -> list[str]:
    """Every note on a run.

    ``spool_emptied``: a later run of the host says that its spool is empty.
    """
    waiting = any(topic.waiting and topic.unpublished for topic in topics)
    return [
        *(text for interface in interfaces for text in _doubts(interface)),
        *(text for interface in interfaces for text in _waits(interface, topics, host)),
        *(text for topic in topics for text in _of_topic(topic)),
        *(text for topic in topics for text in _unanswered(topic, host)),
        *(_emptied(host) if waiting and spool_emptied else ()),
    ]


def _doubts(interface: Interface) -> Iterator[str]:
    killed = interface.killed
    sent = Amount.total(
        loss for cause, loss in interface.in_doubt.items() if cause != AGENT_KILLED
    )
    if sent.packets:
        yield f"{interface.label}: {amount_text(sent)} in doubt: sent and never answered"
    if killed.packets:
        yield (
            f"{interface.label}: {amount_text(killed)} in doubt: in the memory of an agent that "
            "was killed"
        )


def _waits(interface: Interface, topics: Sequence[Topic], host: str) -> Iterator[str]:
    """Packets that wait: exactly the difference, unless some of it is in doubt."""
    unpublished = any(topic.unpublished for topic in topics if topic.stream is Stream.FLOWS)
    if not (interface.waiting.packets and interface.final and unpublished):
        return
    if interface.doubtful.packets:
        amount = f"up to {amount_text(interface.waiting)}"
    elif interface.difference.packets:
        amount = amount_text(interface.difference)
    else:
        return
    yield f"{interface.label}: {amount} wait in the spool of {host}"


def _of_topic(topic: Topic) -> Iterator[str]:
    if topic.duplicates:
        duplicates = counted(topic.duplicates, "duplicate")
        yield f"{topic.topic}: {duplicates}, recognised by seq and not summed"
    if topic.stream is Stream.COUNTERS:
        if topic.missing:
            yield (
                f"{topic.topic}: {counted(topic.missing, *RECORDS_ARE)} missing (seq "
                f"{gaps_text(topic)}), "
                "which loses nothing of interfaces with a later one: the counts are cumulative"
            )
    elif 0 < topic.missing <= topic.failed:
        yield f"{topic.topic}: {counted(topic.missing, *RECORDS_ARE)} missing, counted as lost"
    if topic.expected is not None and topic.missing < topic.failed:
        there = counted(topic.failed - topic.missing, "record that was", "records that were")
        yield f"{topic.topic}: {there} counted as lost but published all the same"


def _unanswered(topic: Topic, host: str) -> Iterator[str]:
    """What became of the records in doubt and in the spool, by ``seq``."""
    arrived = topic.unanswered - topic.unpublished
    doubt = counted(topic.in_doubt, "record")
    if topic.in_doubt and topic.waiting:
        yield (
            f"{topic.topic}: {doubt} in doubt and {topic.waiting:,} in the spool of {host}, "
            f"{arrived:,} of them published"
        )
    elif topic.in_doubt:
        yield f"{topic.topic}: {doubt} in doubt, {arrived:,} of them published"
    elif topic.waiting:
        if topic.unpublished:
            waits = counted(topic.unpublished, "record waits", "records wait")
            yield f"{topic.topic}: {waits} in the spool of {host}"
        if arrived:
            place = f"from the spool of {host}"
            records = counted(arrived, f"record {place} was", f"records {place} were")
            yield f"{topic.topic}: {records} published since"


def _emptied(host: str) -> Iterator[str]:
    yield (
        f"a later run of {host} says that its spool is empty: the records that wait are in "
        "another directory, or were deleted there"
    )

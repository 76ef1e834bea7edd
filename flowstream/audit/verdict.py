"""What the accounts of a run mean, in sentences that name the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.audit.result import GAPS_SHOWN
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.audit.result import Interface, Topic


def problems(interfaces: Sequence[Interface], topics: Sequence[Topic]) -> list[str]:
    """Every reason why the accounts of a run do not hold."""
    return [
        *(text for interface in interfaces for text in _of_interface(interface)),
        *(text for topic in topics for text in _of_topic(topic)),
    ]


def notes(topics: Sequence[Topic]) -> list[str]:
    """Tell what is worth knowing and breaks nothing."""
    return [text for topic in topics for text in _notes(topic)]


def _of_interface(interface: Interface) -> Iterator[str]:
    off = interface.difference
    amount = f"{off.packets:+,} packets and {off.bytes:+,} octets"
    if not interface.counters:
        yield f"{interface.name}: flow records, but no counters record to compare them with"
    elif not interface.final:
        yield (
            f"{interface.name}: run did not end cleanly: no final counters, so the equation "
            f"cannot be exact (difference {amount})"
        )
    elif off.packets or off.bytes:
        vanished = (off.packets or off.bytes) > 0
        yield f"{interface.name}: difference of {amount}: " + (
            "received, but neither published nor counted as lost"
            if vanished
            else "published or counted as lost, but not received"
        )


def _of_topic(topic: Topic) -> Iterator[str]:
    # Counters are cumulative: what one lost record said, the next one says too.
    if topic.stream is Stream.COUNTERS:
        return
    unexplained = topic.missing - topic.failed
    if unexplained > 0:
        counted = f", {topic.failed:,} were counted as lost" if topic.failed else ""
        yield (
            f"{topic.topic}: {unexplained:,} records are missing without a cause "
            f"({topic.missing:,} are not there{counted}; seq {_ranges(topic)})"
        )
    end = 0 if topic.last_seq is None else topic.last_seq + 1
    if topic.expected is not None and end > topic.expected:
        yield (
            f"{topic.topic}: seq {topic.last_seq:,} lies beyond the {topic.expected:,} records "
            "that the run made"
        )


def _notes(topic: Topic) -> Iterator[str]:
    if topic.duplicates:
        yield f"{topic.topic}: {topic.duplicates:,} duplicates, recognised by seq and not summed"
    if topic.stream is Stream.COUNTERS:
        if topic.missing:
            yield (
                f"{topic.topic}: {topic.missing:,} records are missing (seq {_ranges(topic)}), "
                "which loses nothing: the counts are cumulative"
            )
    elif 0 < topic.missing <= topic.failed:
        yield f"{topic.topic}: {topic.missing:,} records are missing, counted as lost"
    if topic.expected is not None and topic.missing < topic.failed:
        yield (
            f"{topic.topic}: {topic.failed - topic.missing:,} records that were counted as lost "
            "are there all the same"
        )


def _ranges(topic: Topic) -> str:
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in topic.gaps]
    return ", ".join(shown) + (", ..." if len(topic.gaps) == GAPS_SHOWN else "")

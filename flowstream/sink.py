"""Sinks: where encoded batches are published to, and who hears what became of them.

Every record of every accepted batch gets exactly one outcome: acknowledged or
failed. Faults at the start are ``SinkError``; faults while running are outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.errors import UsageError
from flowstream.kafka.settings import ClientSettings
from flowstream.urls import DirectoryUrl, KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.messages import MessageBatch


class Sink(Protocol):
    """A place to publish to; used from one event loop."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be published any more, or what was may not last; else None.

        For good; it may come as late as by ``close``.
        """

    def prepare(self, topics: Sequence[str]) -> None:
        """Check and open what needs the privileges that the process may give up before ``start``.

        Blocks for as long as a directory takes; starts no thread. ``SinkError``.
        """

    def load(self) -> None:
        """Import what publishing needs, after ``prepare`` and with the same privileges.

        A call of its own: that takes a while, which other work need not wait for.
        ``start`` does it where nobody else has.
        """

    async def start(self, topics: Sequence[str]) -> None:
        """Connect and create what is missing; ``SinkError`` when it can never work."""

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``; valid after ``start``."""

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while the sink is full. Faults are outcomes, never raised."""

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait until all that was accepted has an outcome, ``timeout`` seconds at most.

        What has none by then is reported failed by "shutdown".
        """

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush within ``timeout`` seconds, then let go of everything; harmless twice."""


def open_sink(
    url: str,
    outcomes: Outcomes[MessageBatch],
    *,
    partitions: int | Mapping[str, int],
    record_format: str,
    owner: tuple[int, int] | None = None,
    topic_settings: Mapping[str, str] | None = None,
) -> Sink:
    """Return the sink that ``url`` names, not started yet.

    ``partitions`` is the number that topics are created with, of all or by topic;
    topics that exist keep theirs. ``record_format`` is the values' format.
    ``owner`` (uid, gid) gets the directories and files that the sink creates, so
    that a process which gives up root after ``start`` can go on. Kafka topics that
    are created get ``topic_settings``. Raises ``UsageError``.
    """
    for count in [partitions] if isinstance(partitions, int) else partitions.values():
        if count < 1:
            raise UsageError(f"partitions: {count} is too few; use 1 or more")
    where = parse_url(url)
    # Only what is used is imported: aiokafka's client alone takes a tenth of a second.
    if isinstance(where, KafkaUrl):
        from flowstream.kafka.sink import KafkaSink  # noqa: PLC0415

        return KafkaSink(
            ClientSettings(where.addresses),
            outcomes,
            partitions=partitions,
            topic_settings=topic_settings,
        )
    if isinstance(where, DirectoryUrl):
        from flowstream.segments.sink import SegmentSink  # noqa: PLC0415

        return SegmentSink(where.path, outcomes, partitions=partitions, owner=owner)
    if record_format != "json":
        raise UsageError(
            f"stdout: takes lines of text and {record_format} is binary; use format json"
        )
    from flowstream.delivery.stdout import StdoutSink  # noqa: PLC0415

    return StdoutSink(outcomes)

"""Sinks: publish batches of messages and report the outcome of every record.

Each record of an accepted batch gets exactly one outcome (``flowstream.accounting.
outcomes``). Faults at the start raise ``SinkError``; later ones are outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.errors import UsageError
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.urls import DirectoryUrl, KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.delivery.condition import Condition
    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import MessageBatch
    from flowstream.segments.retention import Retention


class Sink(Protocol):
    """A place to publish to; for use from one event loop."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be published, or why published records may not be durable.

        None while all is well. It is final, and may be set as late as in ``close``.
        """

    @property
    def condition(self) -> Condition:
        """What becomes of records that it accepts now, as far as is known."""

    def prepare(self, topics: Sequence[str]) -> None:
        """Check and open everything that needs privileges; they may be gone at ``start``.

        Blocks as long as opening a directory takes; starts no thread. Raises
        ``SinkError``.
        """

    def load(self) -> None:
        """Import the libraries for publishing, after ``prepare`` and with the same privileges.

        Separate because it is slow and other work need not wait for it. ``start``
        does it if nobody has.
        """

    async def start(self, topics: Sequence[str]) -> None:
        """Connect and create missing topics; ``SinkError`` when it cannot work."""

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``; valid after ``start``."""

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while the sink is full. Faults are outcomes, not exceptions."""

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait until every accepted record has an outcome, at most ``timeout`` seconds.

        Records without one by then are given up by "shutdown": those that may have
        been written are in doubt, the others failed.
        """

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush within ``timeout`` seconds, then release everything; harmless twice."""


def open_sink(
    url: str,
    outcomes: Outcomes[MessageBatch],
    *,
    partitions: int | Mapping[str, int],
    record_format: str,
    owner: tuple[int, int] | None = None,
    topic_settings: Mapping[str, str] | None = None,
    retention: Retention | None = None,
    client: ClientSettings = DEFAULT_CLIENT,
) -> Sink:
    """Return the sink that ``url`` names, not started yet.

    Missing topics are created with ``partitions`` (one number, or by topic) and, in
    Kafka, with ``topic_settings``; existing topics keep their number.
    ``record_format`` is the format of the values. Directories and files that the sink
    creates belong to ``owner`` (uid, gid), so that a process can give up root after
    ``start`` and continue. ``retention`` limits a recording, ``client`` are the
    settings for a cluster. Raises ``UsageError``.
    """
    for count in [partitions] if isinstance(partitions, int) else partitions.values():
        if count < 1:
            raise UsageError(f"partitions: {count} is too few; use 1 or more")
    where = parse_url(url)
    # Import only the sink in use: aiokafka's client takes a tenth of a second.
    if isinstance(where, KafkaUrl):
        from flowstream.kafka.sink import KafkaSink  # noqa: PLC0415

        return KafkaSink(
            client.at(where.addresses),
            outcomes,
            partitions=partitions,
            topic_settings=topic_settings,
        )
    if isinstance(where, DirectoryUrl):
        from flowstream.segments.sink import SegmentSink  # noqa: PLC0415

        return SegmentSink(
            where.path, outcomes, partitions=partitions, owner=owner, retention=retention
        )
    if record_format != "json":
        raise UsageError(
            f"stdout: takes lines of text and {record_format} is binary; use format json"
        )
    from flowstream.delivery.stdout import StdoutSink  # noqa: PLC0415

    return StdoutSink(outcomes)

"""Sources: reading topics back, from a Kafka cluster or from a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.errors import UsageError
from flowstream.extras import requires
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.urls import DirectoryUrl, KafkaUrl, parse_url_or_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message


class Source(Protocol):
    """Topics that are read from their beginning."""

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings so far, a line each: what could not be read and was left out."""

    async def sizes(self) -> dict[str, list[int]]:
        """Return about how many messages each partition of each topic has, from partition 0 on.

        Raises ``SourceError`` where a topic does not exist or cannot be read.
        """

    def batches(
        self, *, follow: bool = False, since_ms: int | None = None
    ) -> AsyncIterator[list[Message]]:
        """Return an iterator over all messages in lists of bounded size, none empty.

        Messages with a timestamp before ``since_ms`` may be left out, for speed.

        It ends where the topics ended when it began; with ``follow`` it goes on,
        waits for later messages, also in new partitions, and never ends by itself.
        Order holds within a partition. Raises ``SourceError``, naming topic,
        partition and offset where there is one, after everything before it.
        """


def open_source(
    url: str, topics: Sequence[str], *, client: ClientSettings = DEFAULT_CLIENT
) -> Source:
    """Return the source that ``url`` names: kafka://HOST:PORT[,...], file:DIR or a plain DIR.

    ``client`` are the settings for a cluster. Nothing is read yet. Raises ``UsageError``,
    and ``MissingExtraError`` without the extra ``kafka``.
    """
    where = parse_url_or_directory(url)
    # Import only the source in use: aiokafka's client takes a tenth of a second.
    if isinstance(where, KafkaUrl):
        with requires("kafka", f"reading {where}"):
            from flowstream.kafka.source import KafkaSource  # noqa: PLC0415

        return KafkaSource(client.at(where.addresses), topics)
    if isinstance(where, DirectoryUrl):
        from flowstream.segments.source import SegmentSource  # noqa: PLC0415

        return SegmentSource(where.path, topics)
    raise UsageError(f"{url!r} cannot be read back; use kafka://HOST:PORT or a recording")

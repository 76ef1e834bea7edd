"""The parts that record and replay share: outcomes of the copies, and progress."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from flowstream.errors import SinkError, UsageError
from flowstream.kafka.settings import ClientSettings
from flowstream.messages import MessageBatch
from flowstream.progress import progress_bars
from flowstream.urls import (
    DirectoryUrl,
    KafkaUrl,
    parse_url,
    parse_url_or_directory,
    without_secret,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowstream.messages import Message
    from flowstream.sink import Sink

FLUSH_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 10.0
_REMEDIES: Final = {"message_too_large": "; raise the topic's max.message.bytes"}
"""What the user can do, by cause."""


class Copy:
    """Messages that are copied to a sink; the sink's ``Outcomes``.

    Shows progress towards about ``total`` messages on standard error if that is a
    terminal. A context manager.
    """

    def __init__(self, verb: str, total: int) -> None:
        self.copied: Counter[str] = Counter()
        """Acknowledged messages, by topic."""
        self.oldest_ms: dict[str, int] = {}
        """Least timestamp of the messages sent, by topic."""
        # By cause; the error names the first cause and its first place.
        self._failed: Counter[str] = Counter()
        self._first_failure = ""
        self._progress = progress_bars()
        self._task = self._progress.add_task(verb, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        """Count messages that arrived."""
        count = part.stop - part.start
        self.copied[batch.topic] += count
        self._progress.advance(self._task, count)

    def failed(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """Count messages that the sink gave up."""
        if not self._failed:
            offset = f", offset {batch.offsets[part.start]}" if batch.offsets else ""
            self._first_failure = f"topic {batch.topic}, partition {batch.partition}{offset}"
        self._failed[cause] += part.stop - part.start

    def in_doubt(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """Count messages that may have arrived as failed: the copy may be incomplete."""
        self.failed(batch, part, cause)

    async def send(self, sink: Sink, messages: Sequence[Message]) -> None:
        """Send messages of one partition; SinkError once any message has failed."""
        batch = MessageBatch.copy_of(messages)
        oldest = min(batch.timestamps_ms)
        self.oldest_ms[batch.topic] = min(oldest, self.oldest_ms.get(batch.topic, oldest))
        await sink.send(batch)
        self._check()

    async def finish(self, sink: Sink) -> None:
        """Wait for all outcomes; SinkError unless all messages arrived."""
        await sink.flush(FLUSH_TIMEOUT_S)
        self._check()
        # It was an estimate: not every offset has a message.
        self._progress.update(self._task, total=self.copied.total())

    def _check(self) -> None:
        if self._failed:
            cause = next(iter(self._failed))
            raise SinkError(
                f"{self._first_failure}: {cause}: {self._failed.total():,} messages could not be "
                f"written; {self.copied.total():,} were before{_REMEDIES.get(cause, '')}"
            )


def cluster_settings(url: str) -> ClientSettings:
    """Return the settings of a Kafka URL; UsageError, naming its form, for any other."""
    where = parse_url(url) if url.startswith("kafka:") else None
    if not isinstance(where, KafkaUrl):
        raise UsageError(f"{without_secret(url)!r}: use kafka://HOST:PORT[,HOST:PORT...]")
    return ClientSettings(where.addresses)


def recording_path(text: str) -> Path:
    """Return the directory that ``file:DIR`` or a plain DIR names; UsageError for another URL."""
    where = parse_url_or_directory(text)
    if not isinstance(where, DirectoryUrl):
        raise UsageError(f"{text!r}: a recording is a directory; use DIR or file:DIR")
    return where.path

"""The parts that record and replay share: outcomes of the copies, and progress."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from flowstream.accounting import terms
from flowstream.errors import SinkError, UsageError
from flowstream.extras import requires
from flowstream.kafka.remedies import REMEDIES
from flowstream.messages import MessageBatch
from flowstream.progress import progress_bars
from flowstream.segments.reader import partitions_of
from flowstream.urls import (
    DirectoryUrl,
    KafkaUrl,
    parse_url,
    parse_url_or_directory,
    without_secret,
)
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.segments.sink import SegmentSink
    from flowstream.sink import Sink

FLUSH_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 10.0


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
        self._failed = self._in_doubt = 0
        # The error names the first one only.
        self._first_cause = self._first_place = ""
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
        """Count messages that did not arrive."""
        self._note(batch, part, cause)
        self._failed += part.stop - part.start

    def in_doubt(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """Count messages that may have arrived."""
        self._note(batch, part, cause)
        self._in_doubt += part.stop - part.start

    async def send(self, sink: Sink, messages: Sequence[Message]) -> None:
        """Send messages of one partition; SinkError once any message has failed.

        BrokenPipeError where the reader of standard output went away.
        """
        batch = MessageBatch.copy_of(messages)
        oldest = min(batch.timestamps_ms)
        self.oldest_ms[batch.topic] = min(oldest, self.oldest_ms.get(batch.topic, oldest))
        await sink.send(batch)
        self._check()

    async def finish(self, sink: Sink) -> None:
        """Wait for all outcomes; SinkError or BrokenPipeError unless all messages arrived."""
        await sink.flush(FLUSH_TIMEOUT_S)
        self._check()
        # It was an estimate: not every offset has a message.
        self._progress.update(self._task, total=self.copied.total())

    def _note(self, batch: MessageBatch, part: slice, cause: str) -> None:
        if not self._first_cause:
            offset = f", offset {batch.offsets[part.start]}" if batch.offsets else ""
            self._first_cause = cause
            self._first_place = f"topic {batch.topic}, partition {batch.partition}{offset}"

    def _check(self) -> None:
        if not self._first_cause:
            return
        if self._first_cause == terms.PIPE_CLOSED:
            raise BrokenPipeError
        doubt = f", {self._in_doubt:,} may have been" if self._in_doubt else ""
        failed = counted(self._failed, "message")
        remedy = REMEDIES.get(self._first_cause)
        raise SinkError(
            f"{self._first_place}: {self._first_cause}: {failed} could not be written"
            f"{doubt}; {self.copied.total():,} were before" + (f"; {remedy}" if remedy else "")
        )


def cluster_settings(url: str, client: ClientSettings) -> ClientSettings:
    """Return ``client`` for a Kafka URL; UsageError, naming its form, for any other."""
    where = parse_url(url) if url.startswith("kafka:") else None
    if not isinstance(where, KafkaUrl):
        raise UsageError(f"{without_secret(url)!r}: use kafka://HOST:PORT[,HOST:PORT...]")
    return client.at(where.addresses)


def recording_path(text: str) -> Path:
    """Return the path that ``file:PATH`` or a plain PATH names; UsageError for another URL."""
    where = parse_url_or_directory(text)
    if not isinstance(where, DirectoryUrl):
        raise UsageError(f"{text!r}: a recording is a directory or file; use PATH or file:PATH")
    return where.path


def check_absent(directory: Path, topics: Sequence[str]) -> None:
    """Refuse to append a topic to a recording of it: messages would be there twice."""
    try:
        present = [t for t in topics if directory.is_dir() and partitions_of(directory, t)]
    except OSError as err:
        raise SinkError(f"{directory}: {err.strerror}; record to another directory") from err
    if present:
        raise SinkError(
            f"{directory}: already contains topic {present[0]}; record to another directory"
        )


def segment_sink(directory: Path, copy: Copy, partitions: Mapping[str, int]) -> SegmentSink:
    """Return the sink that records into ``directory``."""
    # Not at the top: recordings are written on Linux only, but read and replayed everywhere.
    with requires("kafka", "recording"):
        from flowstream.segments.sink import SegmentSink  # noqa: PLC0415

    return SegmentSink(directory, copy, partitions=partitions)

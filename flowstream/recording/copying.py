"""What recording and replaying have in common: the sink's answers and the progress."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from rich.progress import MofNCompleteColumn

from flowstream.batch import CopiedBatch, EncodedBatch
from flowstream.errors import SinkError, UsageError
from flowstream.progress import progress_bars
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.sink import Sink
    from flowstream.source import Message

FLUSH_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 10.0


class Copy:
    """Messages on their way into a sink, whose ``Outcomes`` this is.

    Shows its progress towards about ``total`` messages on standard error when that
    is a terminal. A context manager.
    """

    def __init__(self, verb: str, total: int) -> None:
        self.copied: Counter[str] = Counter()
        """Messages that arrived, by topic."""
        self._failed: Counter[str] = Counter()
        self._progress = progress_bars(MofNCompleteColumn())
        self._task = self._progress.add_task(verb, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def acknowledged(self, batch: EncodedBatch, part: slice) -> None:
        """Count messages that are where they should be."""
        count = part.stop - part.start
        self.copied[batch.topic] += count
        self._progress.advance(self._task, count)

    def failed(self, batch: EncodedBatch, part: slice, cause: str) -> None:
        """Count messages that the sink gave up."""
        self._failed[f"topic {batch.topic}, partition {batch.partition}: {cause}"] += (
            part.stop - part.start
        )

    async def send(self, sink: Sink, messages: Sequence[Message]) -> None:
        """Hand over messages of one partition; SinkError once any message failed."""
        first = messages[0]
        rows = [message.row() for message in messages]
        await sink.send(CopiedBatch.of(first.topic, first.partition, rows))
        self._check()

    async def finish(self, sink: Sink) -> None:
        """Wait until every message has its outcome; SinkError unless all arrived."""
        await sink.flush(FLUSH_TIMEOUT_S)
        self._check()
        # An estimate before: offsets may stand for nothing.
        self._progress.update(self._task, total=self.copied.total())

    def _check(self) -> None:
        if self._failed:
            place, count = self._failed.most_common(1)[0]
            raise SinkError(
                f"{place}: {count:,} messages could not be written; "
                f"{self.copied.total():,} were before"
            )


def kafka_addresses(url: str) -> tuple[str, ...]:
    """Return the addresses of a Kafka URL; UsageError for any other."""
    where = parse_url(url)
    if not isinstance(where, KafkaUrl):
        raise UsageError(f"{url!r}: use kafka://HOST:PORT[,HOST:PORT...]")
    return where.addresses

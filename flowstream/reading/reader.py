"""Reading records from topics and recordings, without an event loop of the caller's."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from itertools import chain, islice
from typing import TYPE_CHECKING

from flowstream.errors import DecodeError, FlowstreamError
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.reading.selection import Selection, decoded
from flowstream.reading.times import unix_ms
from flowstream.reading.where import Condition
from flowstream.source import open_source
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.reading.rows import Read, Writer
    from flowstream.records import CountersRecord, FlowRecord


def read(
    url: str,
    *,
    topic: str | Sequence[str] = "flowstream.flows",
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
    where: str | None = None,
    follow: bool = False,
    skip_bad: bool = False,
    client: ClientSettings = DEFAULT_CLIENT,
) -> Iterator[FlowRecord | CountersRecord]:
    """Yield the records of topics: those present now and, with ``follow``, all later ones.

    ``url`` is ``kafka://HOST:PORT[,HOST:PORT...]`` or a recording. ``since`` (inclusive)
    and ``until`` (exclusive) are times of the messages: RFC 3339, Unix seconds, or how
    long ago, such as "10m". ``limit`` is the most records, ``where`` a condition such as
    "dst_port == 443 and packets > 10". Records are ordered within a partition only.
    ``skip_bad`` leaves out values that are not records. ``client`` are the settings for a
    cluster, as ``flowstream.kafka.configuration.of_properties`` returns them.

    Everything is read in the caller's thread, which must not run an event loop. At the
    end a ``UserWarning`` tells what could not be read, such as the partitions that a
    recording lacks, and how many values were left out. Raises
    UsageError at once, SourceError when a topic cannot be read, and DecodeError, naming
    topic, partition and offset, for a value that is not a record.
    """
    selection = selected(since=since, until=until, limit=limit, where=where)
    topics = [topic] if isinstance(topic, str) else list(topic)
    return _records(
        Reader(url, topics, selection, skip_bad=skip_bad, client=client), follow=follow
    )


def _records(reader: Reader, *, follow: bool) -> Iterator[FlowRecord | CountersRecord]:
    for batch in reader.batches(follow=follow):
        for _, record in batch:
            yield record
    for line in reader.warnings:
        warnings.warn(line, stacklevel=2)


def selected(
    *, since: str | None, until: str | None, limit: int | None, where: str | None
) -> Selection:
    """Return the selection that a user's texts describe; UsageError names a mistake."""
    now_ms = time.time_ns() // 1_000_000
    return Selection(
        None if since is None else unix_ms(since, now_ms),
        None if until is None else unix_ms(until, now_ms),
        limit,
        None if where is None else Condition(where),
    )


class Reader:
    """Selected records of topics, with their messages.

    ``progressed``, which may be replaced, is called with the number of messages of each
    batch.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        selection: Selection,
        *,
        skip_bad: bool = False,
        client: ClientSettings = DEFAULT_CLIENT,
    ) -> None:
        self._source = open_source(url, topics, client=client)
        self._selection = selection
        self._skip_bad = skip_bad
        self._left: int | None = None
        self.progressed: Callable[[int], object] = lambda _: None
        self._skipped = 0
        self._first_bad = ""

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings so far: those of the source, and how many values were left out."""
        if not self._skipped:
            return self._source.warnings
        left_out = counted(self._skipped, "value is not a record", "values are not records")
        return [*self._source.warnings, f"{left_out}, and left out: {self._first_bad}"]

    def total(self) -> int:
        """Return an estimate of the number of messages."""
        return sum(map(sum, asyncio.run(self._source.sizes()).values()))

    def batches(self, *, follow: bool = False) -> Generator[list[Read], None, None]:
        """Yield the selected messages and their records in lists, which may be empty."""
        for messages in self._messages(follow=follow):
            yield from self._found(messages)

    def write_to(self, open_writer: Callable[[], Writer], *, follow: bool = False) -> None:
        """Write the selected records to a writer, which is closed at the end.

        The writer is opened once messages have been read: a source that cannot be read
        leaves an existing file unchanged.
        """
        selection = self._selection
        is_whole = selection.where is None and selection.limit is None
        batches = self._messages(follow=follow)
        with ExitStack() as stack:
            stack.callback(batches.close)
            first = next(batches, ())
            writer = open_writer()
            # Also after an interrupt: what was written so far is whole.
            stack.callback(writer.close)
            for messages in chain([first], batches):
                if is_whole and writer.write_undecoded(messages):
                    continue
                for found in self._found(messages):
                    writer.write(found)

    def _messages(self, *, follow: bool) -> Generator[Sequence[Message], None, None]:
        """Yield the messages of the selected time until there are enough records."""
        self._left = self._selection.limit
        source = self._source.batches(follow=follow, since_ms=self._selection.since_ms)
        for messages in _in_this_thread(source):
            yield self._selection.in_time(messages)
            self.progressed(len(messages))
            if self._left == 0:
                return

    def _found(self, messages: Sequence[Message]) -> Iterator[list[Read]]:
        """Yield the selected ones in a list, then raise if a value is not a record."""
        found: list[Read] = []
        try:
            for each in islice(self._selected(messages), self._left):
                found.append(each)  # noqa: PERF402 - kept where it raises
        except FlowstreamError:
            yield found
            raise
        yield found
        if self._left is not None:
            self._left -= len(found)

    def _selected(self, messages: Sequence[Message]) -> Iterator[Read]:
        where = self._selection.where
        for message in messages:
            try:
                record = decoded(message)
            except DecodeError as err:
                if not self._skip_bad:
                    raise
                self._skipped += 1
                self._first_bad = self._first_bad or str(err)
                continue
            if where is None or where.matches(record):
                yield message, record


def _in_this_thread(batches: AsyncIterator[list[Message]]) -> Generator[list[Message], None, None]:
    """Yield from an asynchronous iterator; its loop runs only while a list is awaited."""

    async def following() -> list[Message] | None:
        return await anext(batches, None)

    async def close() -> None:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()

    with asyncio.Runner() as runner:
        try:
            while (messages := runner.run(following())) is not None:
                yield messages
        finally:
            runner.run(close())

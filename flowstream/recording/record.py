"""Copy topics, of a cluster or a recording, into a recording."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from flowstream.errors import SinkError
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.reading import Selection
from flowstream.recording.copying import CLOSE_TIMEOUT_S, Copy, check_absent, segment_sink
from flowstream.segments.archive import packing
from flowstream.source import open_source
from flowstream.urls import ARCHIVE_SUFFIX

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.source import Source


async def record(
    url: str,
    topics: Sequence[str],
    to: Path,
    *,
    selection: Selection | None = None,
    change: Callable[[Message], Message] = lambda message: message,
    warn: Callable[[str], object] = lambda _: None,
    client: ClientSettings = DEFAULT_CLIENT,
) -> int:
    """Copy the topics' present messages into ``to``; return their number.

    ``url`` is a cluster or a recording, of which no ``topics`` mean all. ``to`` is a
    directory, or with the suffix ``.fsrec`` one compressed file. ``selection`` leaves
    out messages, ``change`` is applied to the others, and ``warn`` gets the source's
    warnings and the topics whose messages were all left out. Raises UsageError,
    SourceError where a topic cannot be read (a directory then has everything before
    it), DecodeError where a condition meets a value that is not a record, and SinkError
    where ``to`` cannot be written or already contains one of the topics. When it is
    cancelled a directory has the messages taken until then.
    """
    source = open_source(url, topics, client=client)
    with ExitStack() as stack:
        if to.suffix == ARCHIVE_SUFFIX:
            # Only a source that can be read makes a file.
            sizes = await source.sizes()
            to = stack.enter_context(packing(to))
        else:
            check_absent(to, topics)
            sizes = await source.sizes()
            check_absent(to, tuple(sizes))
        copied = await _copy(source, sizes, to, selection or Selection(), change)
    for line in source.warnings:
        warn(line)
    for topic, messages in sizes.items():
        if sum(messages) and not copied[topic]:
            warn(f"topic {topic}: none of its messages was selected")
    return copied.total()


async def _copy(
    source: Source,
    sizes: dict[str, list[int]],
    directory: Path,
    selection: Selection,
    change: Callable[[Message], Message],
) -> Counter[str]:
    with Copy("recording", sum(map(sum, sizes.values()))) as copy:
        counts = {topic: len(partitions) for topic, partitions in sizes.items()}
        sink = segment_sink(directory, copy, counts)
        await sink.start(tuple(sizes))
        select = selection.selector()
        try:
            async for messages in source.batches(since_ms=selection.since_ms):
                if found := [change(message) for message in select(messages)]:
                    await copy.send(sink, found)
                if select.is_complete:
                    break
            await copy.finish(sink)
        finally:
            await sink.close(CLOSE_TIMEOUT_S)
        if sink.fault:
            raise SinkError(sink.fault)
    return copy.copied

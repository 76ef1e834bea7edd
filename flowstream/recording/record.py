"""Copy topics of a Kafka cluster into a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.errors import SinkError
from flowstream.extras import requires
from flowstream.recording.copying import CLOSE_TIMEOUT_S, Copy, cluster_settings
from flowstream.segments.reader import partitions_of
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def record(url: str, topics: Sequence[str], directory: Path) -> int:
    """Copy the topics' present messages into ``directory``; return their number.

    Raises UsageError, SourceError where a topic cannot be read (everything before it
    is recorded), and SinkError where ``directory`` cannot be written or already
    contains one of the topics.
    """
    # Not at the top: recordings are written on Linux only, but read and replayed everywhere.
    with requires("kafka", "recording"):
        from flowstream.segments.sink import SegmentSink  # noqa: PLC0415

    cluster_settings(url)
    source = open_source(url, topics)
    _check_absent(directory, topics)
    sizes = await source.sizes()
    with Copy("recording", sum(map(sum, sizes.values()))) as copy:
        counts = {topic: len(partitions) for topic, partitions in sizes.items()}
        sink = SegmentSink(directory, copy, partitions=counts)
        await sink.start(topics)
        try:
            async for messages in source.batches():
                await copy.send(sink, messages)
            await copy.finish(sink)
        finally:
            await sink.close(CLOSE_TIMEOUT_S)
        if sink.fault:
            raise SinkError(sink.fault)
    return copy.copied.total()


def _check_absent(directory: Path, topics: Sequence[str]) -> None:
    """Refuse to append a topic to a recording of it: messages would be there twice."""
    try:
        present = [t for t in topics if directory.is_dir() and partitions_of(directory, t)]
    except OSError as err:
        raise SinkError(f"{directory}: {err.strerror}; record to another directory") from err
    if present:
        raise SinkError(
            f"{directory}: already contains topic {present[0]}; record to another directory"
        )

"""Send a recording to topics of a Kafka cluster, at full speed or by its timestamps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError
from flowstream.kafka.admin import overdue, partition_counts
from flowstream.kafka.settings import KEEP_FOREVER
from flowstream.kafka.sink import KafkaSink
from flowstream.recording.copying import CLOSE_TIMEOUT_S, Copy, cluster_settings
from flowstream.segments.source import SegmentSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message

CONNECT_TIMEOUT_S: Final = 10.0


async def replay(
    directory: Path,
    url: str,
    topics: Sequence[str] = (),
    *,
    speed: float | None = None,
    loop: int = 1,
    warn: Callable[[str], object] = lambda _: None,
) -> dict[str, int]:
    """Copy a recording into a cluster ``loop`` times; return the messages sent by topic.

    Empty ``topics`` mean all of the recording; missing ones are created with the
    recording's partitions and without a time limit. ``speed`` is a factor on the
    time between messages, by their timestamps: 10 is ten times faster; None is full
    speed. Partitions are interleaved by time. ``warn`` gets a line for each partition
    that has missing offsets or a last batch that is cut short, and for each topic
    that does not keep messages as old as those sent. Raises UsageError, SourceError
    and SinkError, the latter before anything is sent if a topic has too few
    partitions.
    """
    cluster = cluster_settings(url)
    source = SegmentSource(directory, topics)
    sizes = await source.sizes()
    counts = {topic: len(partitions) for topic, partitions in sizes.items()}
    await _check_partitions(url, cluster, source, sizes)
    with Copy("replaying", loop * sum(map(sum, sizes.values()))) as copy:
        sink = KafkaSink(cluster, copy, partitions=counts, topic_settings=KEEP_FOREVER)
        await sink.start(tuple(counts))
        try:
            for _ in range(loop):
                await _once(source, sink, copy, speed)
            await copy.finish(sink)
        finally:
            await sink.close(CLOSE_TIMEOUT_S)
    for line in (*source.warnings, *await overdue(cluster, copy.oldest_ms, CONNECT_TIMEOUT_S)):
        warn(line)
    return {topic: copy.copied[topic] for topic in sizes}


async def _check_partitions(
    url: str,
    cluster: ClientSettings,
    source: SegmentSource,
    sizes: Mapping[str, Sequence[int]],
) -> None:
    """Refuse messages without a partition before anything is created or sent."""
    try:
        present = await partition_counts(cluster, tuple(sizes), CONNECT_TIMEOUT_S)
    except SinkError as err:
        raise SinkError(f"no Kafka broker: {err}; start one there or correct the address") from err
    for topic, messages in sizes.items():
        if not present[topic]:
            continue
        for partition, count in enumerate(messages[present[topic] :], present[topic]):
            if count:
                raise SinkError(
                    f"{url}: topic {topic} has {present[topic]} partitions and the recording "
                    f"{len(messages)}: partition {partition} from offset "
                    f"{source.first_offset(topic, partition)} on ({count:,} messages) has no "
                    "counterpart; add partitions, or replay where the topic does not exist"
                )


async def _once(source: SegmentSource, sink: KafkaSink, copy: Copy, speed: float | None) -> None:
    now = asyncio.get_running_loop().time
    batches = _by_time(source, single_times=speed is not None)
    begin: float | None = None
    while (messages := await asyncio.to_thread(next, batches, None)) is not None:
        if speed is not None:
            at = messages[0].timestamp_ms / 1000 / speed
            begin = now() - at if begin is None else begin
            await asyncio.sleep(max(begin + at - now(), 0))
        await copy.send(sink, messages)


def _by_time(source: SegmentSource, *, single_times: bool) -> Iterator[list[Message]]:
    """Interleave the partitions by the times of their batches; each keeps its order.

    ``single_times``: each list has a single timestamp.
    """

    def lists(topic: str, partition: int) -> Iterator[list[Message]]:
        for batch in source.read_partition(topic, partition):
            if single_times:
                for _, messages in itertools.groupby(batch, lambda m: m.timestamp_ms):
                    yield list(messages)
            elif batch:
                yield batch

    partitions = [lists(topic, partition) for topic, partition in source.partitions()]
    return heapq.merge(*partitions, key=lambda messages: messages[0].timestamp_ms)

"""Send a recording to a cluster, file or pipe, at full speed or by its timestamps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError, UsageError
from flowstream.extras import requires
from flowstream.kafka.admin import partition_counts
from flowstream.kafka.settings import DEFAULT_CLIENT, KEEP_FOREVER
from flowstream.kafka.topic_settings import overdue
from flowstream.reading import json_line
from flowstream.recording.copying import (
    CLOSE_TIMEOUT_S,
    Copy,
    check_absent,
    cluster_settings,
)
from flowstream.segments.source import SegmentSource
from flowstream.sink import open_sink
from flowstream.urls import DirectoryUrl, KafkaUrl, StdoutUrl, parse_url
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.sink import Sink

CONNECT_TIMEOUT_S: Final = 10.0


async def replay(
    directory: Path,
    url: str,
    topics: Sequence[str] = (),
    *,
    speed: float | None = None,
    loop: int = 1,
    rename: Mapping[str, str] = MappingProxyType({}),
    warn: Callable[[str], object] = lambda _: None,
    client: ClientSettings = DEFAULT_CLIENT,
) -> dict[str, int]:
    """Copy a recording to ``url`` ``loop`` times; return the messages sent by topic there.

    ``url`` is a cluster, another recording (file:DIR) or stdout:, which gets the values
    as lines of JSON. Empty ``topics`` mean all of the recording; missing ones are
    created with the recording's partitions and, in a cluster, without a time limit.
    ``rename`` has new names of topics, or of their first parts up to a dot: of prefixes.
    ``speed`` is a factor on the time between messages, by their timestamps: 10 is ten
    times faster; None is full speed. Partitions are interleaved by time. ``warn`` gets a
    line for each partition that has missing offsets or a last batch that is cut short,
    and for each topic that does not keep messages as old as those sent. Raises
    UsageError, SourceError and SinkError, the latter before anything is sent if a topic
    has too few partitions, and BrokenPipeError where the reader of stdout: went away.
    When it is cancelled the messages taken until then are sent.
    """
    target = parse_url(url)
    source = SegmentSource(directory, topics)
    sizes = await source.sizes()
    names = renamed(tuple(sizes), rename)
    counts = {names[topic]: len(partitions) for topic, partitions in sizes.items()}
    cluster = cluster_settings(url, client) if isinstance(target, KafkaUrl) else None
    if cluster is not None:
        await _check_partitions(url, cluster, source, sizes, names)
    with Copy("replaying", loop * sum(map(sum, sizes.values()))) as copy:
        if isinstance(target, DirectoryUrl):
            check_absent(target.path, tuple(counts))
        sink = _sink(url, copy, counts, client)
        change = partial(_changed, names=names, as_lines=isinstance(target, StdoutUrl))
        await sink.start(tuple(counts))
        try:
            for _ in range(loop):
                await _once(source, sink, copy, speed, change)
            await copy.finish(sink)
        finally:
            await sink.close(CLOSE_TIMEOUT_S)
    if sink.fault:
        raise SinkError(sink.fault)
    for line in source.warnings:
        warn(line)
    if cluster is not None:
        for line in await overdue(cluster, copy.oldest_ms, CONNECT_TIMEOUT_S):
            warn(line)
    return {topic: copy.copied[topic] for topic in counts}


def renamed(topics: Sequence[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of each topic; UsageError if one would be unused or two the same."""
    names = {}
    used = set()
    for topic in topics:
        names[topic] = topic
        for old, new in rename.items():
            if topic == old or topic.startswith(f"{old}."):
                names[topic] = new + topic.removeprefix(old)
                used.add(old)
    if unused := rename.keys() - used:
        raise UsageError(f"rename: no topic {min(unused)} among {', '.join(topics)}")
    if len(set(names.values())) < len(names):
        raise UsageError(f"rename: two topics would have one name: {', '.join(names.values())}")
    return names


def _changed(message: Message, names: Mapping[str, str], *, as_lines: bool) -> Message:
    topic = names[message.topic]
    if as_lines:
        return message._replace(topic=topic, value=json_line(message))
    return message if topic == message.topic else message._replace(topic=topic)


def _sink(url: str, copy: Copy, counts: Mapping[str, int], client: ClientSettings) -> Sink:
    # Recordings are written on Linux only, but read and replayed everywhere.
    with requires("kafka", url):
        return open_sink(
            url,
            copy,
            partitions=counts,
            record_format="json",
            topic_settings=KEEP_FOREVER,
            client=client,
        )


async def _check_partitions(
    url: str,
    cluster: ClientSettings,
    source: SegmentSource,
    sizes: Mapping[str, Sequence[int]],
    names: Mapping[str, str],
) -> None:
    """Refuse messages without a partition before anything is created or sent."""
    try:
        present = await partition_counts(cluster, tuple(names.values()), CONNECT_TIMEOUT_S)
    except SinkError as err:
        raise SinkError(f"{url}: {err}") from err
    for topic, messages in sizes.items():
        there = present[names[topic]]
        if not there:
            continue
        for partition, count in enumerate(messages[there:], there):
            if count:
                raise SinkError(
                    f"{url}: topic {names[topic]} has {there} partitions and the recording "
                    f"{len(messages)}: partition {partition} from offset "
                    f"{source.first_offset(topic, partition)} on "
                    f"({counted(count, 'message')}) has no counterpart; "
                    "add partitions, or replay where the topic does not exist"
                )


async def _once(
    source: SegmentSource,
    sink: Sink,
    copy: Copy,
    speed: float | None,
    change: Callable[[Message], Message],
) -> None:
    now = asyncio.get_running_loop().time
    batches = _by_time(source, single_times=speed is not None)
    begin: float | None = None
    while (messages := await asyncio.to_thread(next, batches, None)) is not None:
        if speed is not None:
            at = messages[0].timestamp_ms / 1000 / speed
            begin = now() - at if begin is None else begin
            await asyncio.sleep(max(begin + at - now(), 0))
        await copy.send(sink, list(map(change, messages)))


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

"""Findings about a sink: broker and topics, or the directory of a recording."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.errors import SinkError
from flowstream.kafka.admin import COMPACTED, COMPACTED_REMEDY, compacted, partition_counts
from flowstream.kafka.settings import ClientSettings
from flowstream.streams import Stream
from flowstream.urls import DirectoryUrl, KafkaUrl, StdoutUrl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKER_TIMEOUT_S: Final = 5.0


def check_sink(url: KafkaUrl | DirectoryUrl | StdoutUrl, topic_prefix: str) -> Iterator[Finding]:
    """Check whether records can be published there, without writing anything."""
    match url:
        case KafkaUrl():
            yield from _kafka(url, [f"{topic_prefix}.{stream}" for stream in Stream])
        case DirectoryUrl(path=path):
            yield _directory(path)
        case StdoutUrl():
            yield Finding(Status.OK, "stdout:", "takes JSON lines")


def _kafka(url: KafkaUrl, topics: list[str]) -> Iterator[Finding]:
    try:
        settings = ClientSettings(url.addresses)
        counts, lossy = asyncio.run(_topics(settings, topics))
    except SinkError as err:
        yield Finding(Status.FAIL, str(url), f"no broker: {err}", "start one or correct the URL")
        return
    yield Finding(Status.OK, str(url), "a broker answers")
    for topic, count in counts.items():
        text = f"{count} partitions" if count else "does not exist yet; run creates it"
        if topic in lossy:
            yield Finding(Status.WARN, f"topic {topic}", f"{text}; {COMPACTED}", COMPACTED_REMEDY)
        else:
            yield Finding(Status.OK, f"topic {topic}", text)


async def _topics(settings: ClientSettings, topics: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return the number of partitions by topic, and the topics that are compacted."""
    counts = await partition_counts(settings, topics, BROKER_TIMEOUT_S)
    return counts, await compacted(settings, topics, BROKER_TIMEOUT_S)


def _directory(path: Path) -> Finding:
    """Judge by the nearest existing directory whether a recording can be written."""
    subject = f"file:{path}"
    try:
        nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as err:
        return Finding(Status.FAIL, subject, f"{err.strerror}", "choose another path")
    if not nearest.is_dir():
        text = f"{nearest} is not a directory"
        return Finding(Status.FAIL, subject, text, "choose another path")
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(Status.FAIL, subject, f"{nearest} is not writable", "change its mode")
    state = "exists" if nearest == path else "can be created"
    return Finding(Status.OK, subject, state)

"""Findings about a sink: broker and topics, or the directory of a recording."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from flowstream.check.cluster import check_cluster
from flowstream.check.finding import Finding, Status
from flowstream.streams import Stream
from flowstream.urls import DirectoryUrl, KafkaUrl, StdoutUrl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings


def check_sink(
    url: KafkaUrl | DirectoryUrl | StdoutUrl, topic_prefix: str, client: ClientSettings
) -> Iterator[Finding]:
    """Check whether records can be published there, without writing anything."""
    match url:
        case KafkaUrl():
            yield from _kafka(
                client.at(url.addresses), [f"{topic_prefix}.{stream}" for stream in Stream]
            )
        case DirectoryUrl(path=path):
            yield _directory(path)
        case StdoutUrl():
            yield Finding(Status.OK, "stdout:", "takes JSON lines")


def _kafka(settings: ClientSettings, topics: list[str]) -> Iterator[Finding]:
    findings = check_cluster(settings, topics)
    with asyncio.Runner() as runner:
        while (finding := runner.run(_next(findings))) is not None:
            yield finding


async def _next(findings: AsyncIterator[Finding]) -> Finding | None:
    return await anext(findings, None)


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

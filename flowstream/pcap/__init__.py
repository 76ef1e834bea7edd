"""Captures through the very same kernel program, without an interface.

What comes out depends on the captures alone: times are the capture's, the run's
epoch is the first packet's time, the host has no id, and records are ordered.
So a capture gives the same values on any machine.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final

import uvloop
from rich.progress import DownloadColumn

from flowstream.batch import Stream
from flowstream.counters import Ledger
from flowstream.encode import Identity, make_encoder
from flowstream.errors import SourceError
from flowstream.framing import frames_of
from flowstream.kernel.clock import ClockPair
from flowstream.pcap.reader import CaptureFile
from flowstream.pcap.replay import Clock, Replay
from flowstream.pipeline import Publisher
from flowstream.progress import progress_bars
from flowstream.report import counters_record
from flowstream.sink import KEEP, open_sink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowstream.encode import Encoder
    from flowstream.pcap.config import CaptureConfig
    from flowstream.sink import Sink

HOST: Final = "pcap"
CLOSE_TIMEOUT_S: Final = 60.0


def run(config: CaptureConfig) -> int:
    """Publish the flows of captures; SourceError after everything before a damage."""
    # Names of interfaces have 15 characters at most.
    names = {index: path.stem[:15] for index, path in enumerate(config.files, 1)}
    identity = Identity(_first_time(config.files), bytes(16), HOST, names)
    # Before the sink makes anything: a registry may refuse.
    encoder = make_encoder(
        config.format,
        identity,
        names=config.names,
        community_id=config.community_id,
        frames=frames_of(config.registry, config.format, config.topic_prefix),
    )
    return uvloop.run(_run(config, identity, encoder))


async def _run(config: CaptureConfig, identity: Identity, encoder: Encoder) -> int:
    ledger = Ledger()
    sink = open_sink(
        config.sink,
        ledger,
        partitions=config.partitions,
        record_format=config.format,
        topic_settings=KEEP,
    )
    topics = [f"{config.topic_prefix}.{stream}" for stream in Stream]
    sink.prepare(topics)
    await sink.start(topics)
    try:
        return await _publish(config, identity, encoder, sink, ledger)
    finally:
        await sink.close(CLOSE_TIMEOUT_S)


async def _publish(
    config: CaptureConfig, identity: Identity, encoder: Encoder, sink: Sink, ledger: Ledger
) -> int:
    clock = Clock(identity.agent_epoch)
    publisher = Publisher(sink, encoder, identity, ledger, config.topic_prefix, clock.read)
    faults: list[Exception] = []
    publishing = asyncio.ensure_future(publisher.run(faults.append))
    replays: list[Replay] = []
    try:
        with progress_bars(DownloadColumn()) as progress:
            for index, path in enumerate(config.files, 1):
                with CaptureFile(path) as file:
                    bar = progress.add_task(path.name, total=file.size)
                    replays.append(Replay(config, identity.interfaces[index], index, clock))
                    await replays[-1].run(file, publisher, functools.partial(progress.update, bar))
    except SourceError as damage:
        faults.append(damage)
    await publisher.finish()
    await publishing
    await sink.flush(CLOSE_TIMEOUT_S)
    for replay in replays:
        build = functools.partial(
            counters_record,
            identity=identity,
            counted=replay,
            account=ledger.account(replay.index),
            tables=replay,
            now=ClockPair(clock.read(), clock.read()),
            final=True,
        )
        await publisher.publish_counters(build)
    if faults:
        raise faults[0]
    return 1 if any(ledger.account(replay.index).flows.failed for replay in replays) else 0


def _first_time(files: Sequence[Path]) -> int:
    """Unix time in ns of the first packet of all; 0 when there is none."""
    for path in files:
        with CaptureFile(path) as file:
            for time_ns, _, _ in file.frames():
                return time_ns
    return 0

"""Captures through the same kernel program, without an interface.

The output depends on the captures and options alone: times are the capture's,
the run's epoch is the first packet's time, its host id a digest of both, and
records are ordered. So a capture produces the same values on any machine.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.agent.pipeline import Publisher
from flowstream.agent.state import Run
from flowstream.errors import SinkError, SourceError
from flowstream.host import privileges
from flowstream.kafka.settings import KEEP_FOREVER, ClientSettings
from flowstream.pcap.capture_run import CaptureRun, Clock
from flowstream.pcap.identity import identify
from flowstream.pcap.reader import CaptureFile
from flowstream.progress import progress_bars
from flowstream.registry.encoder import encoder_of
from flowstream.sink import open_sink
from flowstream.streams import Stream
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from flowstream.accounting.identity import Identity
    from flowstream.config.pcap import CaptureConfig
    from flowstream.encode import Encoder
    from flowstream.sink import Sink

CLOSE_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 10.0


class Published(NamedTuple):
    """The result of a run: packets read, flow records stored and given up by the sink.

    ``warnings`` has a line for each topic whose retention is shorter than the
    captures are old.
    """

    packets: int
    stored: int
    failed: int
    warnings: list[str]


def run(config: CaptureConfig) -> Published:
    """Publish the flows of captures.

    Raises SourceError: before anything is published when a file cannot be read up to
    its first packet; when the damage comes later, after everything before it is published.
    """
    identity = identify(config)
    # Before the sink creates anything: a registry may refuse.
    encoder = encoder_of(config, identity, privileges.find_user(config.user))
    return uvloop.run(_run(config, identity, encoder))


async def _run(config: CaptureConfig, identity: Identity, encoder: Encoder) -> Published:
    this = Run(identity)
    sink = open_sink(
        config.sink,
        this.ledger,
        partitions=config.partitions,
        record_format=config.format,
        topic_settings=KEEP_FOREVER,
    )
    topics = [f"{config.topic_prefix}.{stream}" for stream in Stream]
    sink.prepare(topics)
    await sink.start(topics)
    try:
        done = await _publish(config, this, encoder, sink)
    finally:
        await sink.close(CLOSE_TIMEOUT_S)
    if sink.fault:
        raise SinkError(sink.fault)
    return done


async def _publish(config: CaptureConfig, this: Run, encoder: Encoder, sink: Sink) -> Published:
    identity, ledger = this.identity, this.ledger
    clock = Clock(identity.agent_epoch)
    publisher = Publisher(sink, encoder, this, config.topic_prefix)
    faults: list[Exception] = []
    publishing = asyncio.ensure_future(publisher.run(faults.append))
    captures: list[CaptureRun] = []
    try:
        with progress_bars(octets=True) as progress:
            for index, path in enumerate(config.files, 1):
                with CaptureFile(path) as file:
                    bar = progress.add_task(path.name, total=file.size)
                    captures.append(CaptureRun(config, identity.interfaces[index], index, clock))
                    await captures[-1].run(
                        file, publisher, functools.partial(progress.update, bar)
                    )
    except SourceError as damage:
        faults.append(damage)
    await publisher.finish()
    await publishing
    await sink.flush(CLOSE_TIMEOUT_S)
    for capture in captures:
        build = functools.partial(
            counters_record,
            identity=identity,
            rhythm=Rhythm(round(config.interval_s * 1e9), 0),
            snapshot=capture.snapshot(ledger.account(capture.key)),
            final=True,
        )
        await publisher.publish_counters(build)
    if faults:
        raise faults[0]
    flows = [ledger.account(capture.key).flows for capture in captures]
    return Published(
        packets=sum(capture.counters().seen.packets for capture in captures),
        stored=sum(account.acknowledged for account in flows),
        failed=sum(account.failed for account in flows),
        warnings=await _overdue(config, identity.agent_epoch, clock.read()),
    )


async def _overdue(config: CaptureConfig, begin_ns: int, end_ns: int) -> list[str]:
    """Warnings about topics whose retention is shorter than the captures are old."""
    where = parse_url(config.sink)
    if not isinstance(where, KafkaUrl):
        return []
    # aiokafka is slow to import, and only this sink needs it.
    from flowstream.kafka.admin import overdue  # noqa: PLC0415

    oldest_ms = {f"{config.topic_prefix}.{stream}": begin_ns // 1_000_000 for stream in Stream}
    # Counters come at the end.
    oldest_ms[f"{config.topic_prefix}.{Stream.COUNTERS}"] = end_ns // 1_000_000
    return await overdue(ClientSettings(where.addresses), oldest_ms, CONNECT_TIMEOUT_S)

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
from flowstream.errors import SinkError
from flowstream.host import privileges
from flowstream.kafka.settings import KEEP_FOREVER, ClientSettings
from flowstream.pcap.identity import identify
from flowstream.pcap.reading import Reading
from flowstream.registry.encoder import encoder_of
from flowstream.sink import open_sink
from flowstream.streams import Stream
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.config.pcap import CaptureConfig
    from flowstream.encode import Encoder
    from flowstream.pcap.identity import Captures
    from flowstream.sink import Sink

CLOSE_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 10.0


class Published(NamedTuple):
    """The result of a run: packets read, flow records stored and given up by the sink."""

    packets: int
    stored: int
    failed: int


def run(config: CaptureConfig, warn: Callable[[str], object]) -> Published:
    """Publish the flows of captures.

    ``warn`` gets a line for everything about a capture that its records do not show,
    and for each topic whose retention is shorter than the captures are old.
    Raises SourceError: before anything is published when a file cannot be read up to
    its first packet; when the damage comes later, after everything before it is published.
    """
    captures = identify(config)
    # Before the sink creates anything: a registry may refuse.
    encoder = encoder_of(config, captures.identity, privileges.find_user(config.user))
    return uvloop.run(_run(config, captures, encoder, warn))


async def _run(
    config: CaptureConfig, captures: Captures, encoder: Encoder, warn: Callable[[str], object]
) -> Published:
    this = Run(captures.identity)
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
    publisher = Publisher(sink, encoder, this, config.topic_prefix)
    reading = Reading(config, captures, publisher, warn)
    try:
        await _publish(config, this, reading, publisher, sink)
    finally:
        await sink.close(CLOSE_TIMEOUT_S)
    if sink.fault:
        raise SinkError(sink.fault)
    for line in await _overdue(config, this.identity.agent_epoch, reading.clock.read()):
        warn(line)
    flows = [this.ledger.account(each.key).flows for each in reading.runs]
    return Published(
        packets=sum(each.counters().seen.packets for each in reading.runs),
        stored=sum(account.acknowledged for account in flows),
        failed=sum(account.failed for account in flows),
    )


async def _publish(
    config: CaptureConfig, this: Run, reading: Reading, publisher: Publisher, sink: Sink
) -> None:
    """Publish records and final counters, whatever ends the reading; then raise that."""
    faults: list[Exception] = []
    publishing = asyncio.ensure_future(publisher.run(faults.append))
    try:
        await reading.run()
    except Exception as fault:  # noqa: BLE001 - whatever it is, the run ends in order
        faults.append(fault)
    await publisher.finish()
    await publishing
    await sink.flush(CLOSE_TIMEOUT_S)
    for each in reading.runs:
        build = functools.partial(
            counters_record,
            identity=this.identity,
            rhythm=Rhythm(round(config.interval_s * 1e9), 0),
            snapshot=each.snapshot(this.ledger.account(each.key)),
            final=True,
        )
        await publisher.publish_counters(build)
    if faults:
        raise faults[0]


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

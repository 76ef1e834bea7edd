"""Captures through the same kernel program, without an interface.

The output depends on the captures and options alone: times are the capture's,
the run's epoch is the first packet's time, its host id a digest of both, and
records are ordered. So a capture produces the same values on any machine.
"""

from __future__ import annotations

import asyncio
import functools
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.accounting.run import Run
from flowstream.agent.credentials import require_readable
from flowstream.errors import SinkError
from flowstream.filtering.compiling import compile_filter
from flowstream.host import limits, privileges
from flowstream.kafka.settings import KEEP_FOREVER
from flowstream.kernel.packets import PacketFeed
from flowstream.pcap.identity import identify
from flowstream.pcap.inputs import opened
from flowstream.pcap.reading import Reading
from flowstream.pipeline.publisher import Publisher
from flowstream.registry.encoder import encoder_of
from flowstream.sink import open_sink
from flowstream.streams import Stream
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from flowstream.config.pcap import CaptureConfig
    from flowstream.encode import Encoder
    from flowstream.host.privileges import User
    from flowstream.pcap.identity import Captures
    from flowstream.sink import Sink

    RetentionCheck = Callable[[Mapping[str, int], float], Awaitable[list[str]]]

CLOSE_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 10.0
DESCRIPTORS: Final = 16
"""Descriptors of maps and program."""


class Published(NamedTuple):
    """The result of a run: packets read, flow records stored and given up by the sink."""

    packets: int
    stored: int
    failed: int


def run(config: CaptureConfig, warn: Callable[[str], object]) -> Published:
    """Publish the flows of captures, as ``config.user`` (or the default) and without capabilities.

    Privileges are given up for good, before anything of a capture is read.
    ``warn`` gets a line for everything about a capture that its records do not show,
    and for each topic whose retention is shorter than the captures are old.
    Raises SourceError for a file that cannot be read: before anything is published if
    its first packet cannot be read, otherwise after everything before the damage is.
    """
    user = privileges.find_user(privileges.user_name(config.user))
    with prepared(config, user) as ready:
        privileges.give_up(user)
        if os.geteuid() == 0:
            warn("still root by name, without any capability")
        return uvloop.run(publish(ready, warn))


class Prepared(NamedTuple):
    """A run that needs no privileges any more."""

    config: CaptureConfig
    captures: Captures
    this: Run
    encoder: Encoder
    sink: Sink
    feed: PacketFeed
    overdue: RetentionCheck | None
    """Finds topics of a cluster that delete messages too early."""

    def topics(self) -> list[str]:
        """Names of all topics."""
        return [f"{self.config.topic_prefix}.{stream}" for stream in Stream]


@contextmanager
def prepared(config: CaptureConfig, user: User) -> Iterator[Prepared]:
    """Open, load and import everything that needs privileges or may need them.

    Untrusted input, captures and a registry's answers, is read by a process that has
    become ``user``.
    """
    limits.require_descriptors(limits.DESCRIPTORS + DESCRIPTORS + len(config.files))
    require_readable(config.kafka, user, privileges.user_name(config.user))
    with ExitStack() as stack:
        inputs = stack.enter_context(opened(config.files))
        # Before the sink creates anything: a capture may be damaged, a registry may refuse.
        captures = identify(config, inputs, user)
        encoder = encoder_of(config, captures.identity, user)
        this = Run(captures.identity)
        packet_filter = compile_filter(config.filter, user) if config.filter else None
        sink = open_sink(
            config.sink,
            this.ledger,
            partitions=config.partitions,
            record_format=config.format,
            owner=user if os.geteuid() == 0 else None,
            topic_settings=KEEP_FOREVER,
            client=config.kafka,
        )
        feed = PacketFeed(
            max_flows=config.max_flows, sampling=config.sampling, packet_filter=packet_filter
        )
        stack.callback(feed.close)
        check = _retention_check(config)
        ready = Prepared(config, captures, this, encoder, sink, feed, check)
        sink.prepare(ready.topics())
        sink.load()
        yield ready


def _retention_check(config: CaptureConfig) -> RetentionCheck | None:
    where = parse_url(config.sink)
    if not isinstance(where, KafkaUrl):
        return None
    # aiokafka is slow to import, and only Kafka needs it.
    from flowstream.kafka.topic_settings import overdue  # noqa: PLC0415

    return functools.partial(overdue, config.kafka.at(where.addresses))


async def publish(ready: Prepared, warn: Callable[[str], object]) -> Published:
    """Publish the flows of captures; see ``run``."""
    this, sink = ready.this, ready.sink
    await sink.start(ready.topics())
    publisher = Publisher(sink, ready.encoder, this, ready.config.topic_prefix)
    reading = Reading(ready.config, ready.captures, ready.feed, publisher, warn)
    try:
        await _publish(ready, reading, publisher)
    finally:
        await sink.close(CLOSE_TIMEOUT_S)
    if sink.fault:
        raise SinkError(sink.fault)
    for line in await _overdue(ready, reading.clock.read()):
        warn(line)
    flows = [this.ledger.account(each.key).flows for each in reading.runs]
    return Published(
        packets=sum(each.counters().seen.packets for each in reading.runs),
        stored=sum(account.acknowledged for account in flows),
        failed=sum(account.failed for account in flows),
    )


async def _publish(ready: Prepared, reading: Reading, publisher: Publisher) -> None:
    """Publish records and final counters, also after a fault, which is then raised."""
    faults: list[Exception] = []
    publishing = asyncio.ensure_future(publisher.run(faults.append))
    try:
        await reading.run()
    except Exception as fault:  # noqa: BLE001 - whatever it is, the run ends in order
        faults.append(fault)
    await publisher.finish()
    await publishing
    await ready.sink.flush(CLOSE_TIMEOUT_S)
    for each in reading.runs:
        build = functools.partial(
            counters_record,
            identity=ready.this.identity,
            rhythm=Rhythm(round(ready.config.interval_s * 1e9), 0),
            snapshot=each.snapshot(ready.this.ledger.account(each.key)),
            final=True,
        )
        await publisher.publish_counters(build)
    if faults:
        raise faults[0]


async def _overdue(ready: Prepared, end_ns: int) -> list[str]:
    """Warnings about topics whose retention is shorter than the captures are old."""
    if ready.overdue is None:
        return []
    begin_ns = ready.this.identity.agent_epoch
    oldest_ms = dict.fromkeys(ready.topics(), begin_ns // 1_000_000)
    # Counters come at the end.
    oldest_ms[f"{ready.config.topic_prefix}.{Stream.COUNTERS}"] = end_ns // 1_000_000
    return await ready.overdue(oldest_ms, CONNECT_TIMEOUT_S)

"""The fleet's runs through the real encoder, publisher and sink."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.fleet.hosts import INTERFACES, Interface, announcements
from bench.fleet.truth import Traffic, Truth
from flowstream.accounting import terms
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.run import Run as AgentRun
from flowstream.accounting.snapshot import Moment
from flowstream.encode import make_encoder
from flowstream.pipeline.publisher import Publisher, RecordBatch
from flowstream.records import FlowRecord, decode
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.fleet.hosts import Fleet, Run
    from flowstream.accounting.outcomes import Outcomes
    from flowstream.encode import Prefixes
    from flowstream.messages import MessageBatch
    from flowstream.sink import Sink

FLUSH_S: Final = 30.0
# As the simulated agents are configured: an interval of 10 s, counters at its end.
RHYTHM: Final = Rhythm(10_000_000_000, 10_000_000_000)


class Books:
    """The sink's ``Outcomes``: to the ledger of the run that publishes now."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.records = 0
        """Acknowledged, of all topics and runs."""

    def acknowledged(self, batch: MessageBatch, part: slice) -> None:
        """See ``Outcomes``."""
        self.records += len(batch.values[part])
        self.ledger.acknowledged(batch, part)

    def failed(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """See ``Outcomes``; only a ``Refusing`` sink may report this."""
        raise RuntimeError(f"{batch.topic}: {len(batch.values[part])} records failed: {cause}")

    def in_doubt(self, batch: MessageBatch, part: slice, cause: str) -> None:
        """See ``Outcomes``; no sink may report this."""
        raise RuntimeError(f"{batch.topic}: {len(batch.values[part])} records in doubt: {cause}")


class Refusing:
    """The part of a ``Sink`` that a publisher uses; gives up the first batch of flows."""

    def __init__(self, sink: Sink, outcomes: Outcomes[MessageBatch]) -> None:
        self._sink, self._outcomes = sink, outcomes
        self.refused: list[bytes] = []

    def partitions(self, topic: str) -> int:
        """See ``Sink``."""
        return self._sink.partitions(topic)

    async def send(self, batch: MessageBatch) -> None:
        """See ``Sink``."""
        if batch.stream is not Stream.FLOWS or self.refused:
            await self._sink.send(batch)
            return
        self.refused = [value for value in batch.values if value is not None]
        self._outcomes.failed(batch, slice(None), terms.DELIVERY_TIMEOUT)


class FleetPublisher:
    """Publishes a fleet, run after run, to the sink that ``open_with`` gives.

    ``truth`` is what it wrote.
    """

    def __init__(
        self,
        fleet: Fleet,
        open_with: Callable[[Outcomes[MessageBatch]], Sink],
        prefix: str,
        record_format: str,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._fleet, self._prefix = fleet, prefix
        self._format, self._prefixes = record_format, prefixes
        self.books = Books()
        self.truth = Truth()
        self._sink = open_with(self.books)

    async def publish(self) -> int:
        """Publish it all; return the number of records that were acknowledged."""
        topics = [f"{self._prefix}.{stream}" for stream in Stream]
        self._sink.prepare(topics)
        await self._sink.start(topics)
        try:
            for run in self._fleet.runs():
                await self._run(run)
        finally:
            await self._sink.close(FLUSH_S)
        return self.books.records

    async def _run(self, run: Run) -> None:
        ledger = self.books.ledger = Ledger()
        sink = Refusing(self._sink, ledger) if run.refused else self._sink
        encoder = make_encoder(self._format, run.identity, prefixes=self._prefixes)
        publisher = Publisher(sink, encoder, AgentRun(run.identity, ledger), self._prefix)  # type: ignore[arg-type]
        interfaces = [Interface(index) for index in INTERFACES]
        host = run.identity.host_id.hex()
        for interval in run.intervals:
            records = self._fleet.records(run, interval)
            for interface in interfaces:
                interface.saw(records)
            self.truth.published(host, records)
            batches = [RecordBatch(Stream.FLOWS, records)]
            if interval == run.intervals.start:
                batches.append(RecordBatch(Stream.NEW_FLOWS, announcements(records)))
            await _through(publisher, batches)
            await self._counters(run, publisher, interfaces, interval, final=False)
        if run.overflowed:
            interfaces[0].overflow()
            self.truth.lossy.add(host)
        if isinstance(sink, Refusing):
            self._withhold(host, sink.refused)
        # Only when everything has its outcome can the last counters say it all.
        await self._sink.flush(FLUSH_S)
        await self._counters(run, publisher, interfaces, run.intervals.stop, final=True)
        await self._sink.flush(FLUSH_S)

    def _withhold(self, host: str, values: Sequence[bytes]) -> None:
        for record in map(decode, values):
            if isinstance(record, FlowRecord):
                traffic = Traffic(1, record.packets, record.bytes, record.l2_bytes)
                self.truth.withheld(host, record.dst_addr, traffic)

    async def _counters(
        self,
        run: Run,
        publisher: Publisher,
        interfaces: Sequence[Interface],
        interval: int,
        *,
        final: bool,
    ) -> None:
        elapsed = (interval - run.intervals.start + 1) * 10_000_000_000
        now = Moment(run.identity.agent_epoch + elapsed, elapsed)
        for interface in interfaces:
            build = partial(
                counters_record,
                identity=run.identity,
                rhythm=RHYTHM,
                snapshot=interface.snapshot(
                    self.books.ledger.account(AttachmentKey(interface.index)), now
                ),
                final=final,
            )
            await publisher.publish_counters(build)


async def _through(publisher: Publisher, batches: Sequence[RecordBatch]) -> None:
    faults: list[Exception] = []
    running = asyncio.ensure_future(publisher.run(faults.append))
    for batch in batches:
        await publisher.put(batch)
    await publisher.finish()
    await running
    if faults:
        raise faults[0]

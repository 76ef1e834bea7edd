"""The publisher: a bounded queue, an encoder and the sink."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from flowstream.accounting import terms
from flowstream.accounting.tally import Tally
from flowstream.encode import counters_batch, partition_keys, partitions, split, stamp
from flowstream.histogram import DURATIONS, Histogram
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.run import Run
    from flowstream.accounting.snapshot import SpoolState
    from flowstream.encode import Encoder
    from flowstream.records import CountersRecord
    from flowstream.sink import Sink

QUEUE_BATCHES: Final = 16
"""Batches between the readers and the encoder: at most 16 · 8,192 records."""
ENCODE_RECORDS: Final = 4_096
"""Records encoded without yielding to the event loop: about 10 ms of JSON."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one stream, on their way from a probe to the publisher.

    ``records`` has shape (n,) and the dtype ``flowstream.layouts.flow.FLOW_RECORD``
    (packed, big-endian fields, MessagePack tags in place). The array owns its
    memory: nothing in it aliases a kernel buffer. Times are Unix nanoseconds;
    ``agent_epoch``, ``host_id`` and ``seq`` are not stamped yet.
    """

    stream: Stream
    records: NDArray[np.void]


class Intake(Protocol):
    """Where readers put records."""

    async def put(self, batch: RecordBatch) -> None:
        """Take a batch; wait while there is no room."""


class Publisher:
    """Encoder and sink behind the bounded queue; only this assigns the run's ``seq``.

    Messages carry the time of their records, so that the same records make the
    same messages. With ``discard`` set, further records are counted as lost under
    that cause and not published: for the end of a run that has no time left.
    ``on_counters`` gets every counters record and its topic before the sink does.
    """

    def __init__(
        self,
        sink: Sink,
        encoder: Encoder,
        run: Run,
        prefix: str,
        on_counters: Callable[[CountersRecord, str], object] = lambda *_: None,
    ) -> None:
        self._sink, self._encoder, self._run = sink, encoder, run
        self._ledger = run.ledger
        self._queue: asyncio.Queue[tuple[RecordBatch, Tally] | asyncio.Event | None] = (
            asyncio.Queue(QUEUE_BATCHES)
        )
        self._topics = {stream: f"{prefix}.{stream}" for stream in Stream}
        self._on_counters = on_counters
        self.discard: str | None = None
        self.encode_duration = Histogram(DURATIONS)

    @property
    def queue(self) -> tuple[int, int]:
        """Batches in the queue, and the most that it holds."""
        return self._queue.qsize(), QUEUE_BATCHES

    async def put(self, batch: RecordBatch) -> None:
        """Hand over a batch; wait while the queue is full."""
        tally = Tally.of_flows(batch.records)
        self._ledger.drained(batch.stream, tally)
        await self._queue.put((batch, tally))

    async def put_drained(self, batch: RecordBatch) -> None:
        """Like ``put``, for records that are counted as drained already."""
        await self._queue.put((batch, Tally.of_flows(batch.records)))

    async def passed(self) -> None:
        """Return once everything that was put before this call went to the sink."""
        mark = asyncio.Event()
        await self._queue.put(mark)
        await mark.wait()

    async def finish(self) -> None:
        """Let ``run`` end once everything before this call went to the sink."""
        await self._queue.put(None)

    async def run(self, on_fault: Callable[[Exception], object]) -> None:
        """Publish batches until ``finish``.

        A fault of the agent's own goes to ``on_fault``; all later batches are taken
        out of the queue and counted as lost, so that no reader waits forever.
        """
        while (taken := await self._queue.get()) is not None:
            if isinstance(taken, asyncio.Event):
                taken.set()
                continue
            batch, whole = taken
            for start in range(0, len(batch.records), ENCODE_RECORDS):
                part = slice(start, start + ENCODE_RECORDS)
                tally = whole[part]
                try:
                    await self._publish(batch.stream, batch.records[part], tally)
                except Exception as fault:  # noqa: BLE001 - whatever it is, the run ends in order
                    # None of these has a seq or reached the sink.
                    self._ledger.lost(tally, terms.INTERNAL_ERROR)
                    self.discard = terms.INTERNAL_ERROR
                    on_fault(fault)

    async def _publish(self, stream: Stream, records: NDArray[np.void], tally: Tally) -> None:
        if self.discard:
            self._ledger.lost(tally, self.discard)
            return
        began = time.perf_counter()
        stamp(records, self._run.identity, self._run.next_seq(stream))
        values = self._encoder.encode(records)
        topic = self._topics[stream]
        keys = partition_keys(records)
        to = partitions(keys, self._sink.partitions(topic))
        timestamp_ms = int(records["time_received_ns"].max()) // 1_000_000
        epoch = self._run.identity.agent_epoch
        batches = split(stream, topic, values, keys, to, tally, timestamp_ms, epoch)
        self.encode_duration.observe(time.perf_counter() - began)
        # Only now: records that cannot be encoded must leave no gap.
        self._run.take_seq(stream, len(records))
        self._ledger.encoded(stream, tally)
        # Before any is sent: a seq must not be used again after the agent was killed.
        self._run.write_books()
        for batch in batches:
            self._ledger.queued(batch)
            await self._sink.send(batch)

    async def publish_counters(self, build: Callable[[int], CountersRecord]) -> None:
        """Publish one counters record, which ``build`` makes from its ``seq``."""
        record = build(self._run.take_seq(Stream.COUNTERS, 1))
        self._run.write_books()
        topic = self._topics[Stream.COUNTERS]
        self._on_counters(record, topic)
        batch = counters_batch(record, self._encoder, topic, self._sink.partitions(topic))
        self._ledger.queued(batch)
        await self._sink.send(batch)


class Means(NamedTuple):
    """What records are published with: the sink, an encoder, and what a spool is told and tells.

    ``on_counters`` gets every counters record and its topic before the sink does,
    ``close_run`` the epoch of a run that has made its last one.
    """

    sink: Sink
    on_counters: Callable[[CountersRecord, str], object]
    spool_state: Callable[[], SpoolState]
    close_run: Callable[[int], object]
    encoder: Encoder

    def publisher(self, run: Run, prefix: str) -> Publisher:
        """Return a publisher of a run's records, to topics with ``prefix``."""
        return Publisher(self.sink, self.encoder, run, prefix, self.on_counters)

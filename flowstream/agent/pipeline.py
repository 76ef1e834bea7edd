"""The stages between the kernel and the sink.

    ring buffers ─┐
                  ├─ RecordBatch → bounded queue → stamp, encode, split → MessageBatch → sink
    flow tables ──┘

A slow sink makes ``send`` wait, which fills the queue, which stops the readers;
then the kernel's buffers fill and the kernel counts what it loses.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flowstream.accounting.tally import Tally
from flowstream.encode import (
    counters_key,
    counters_partition,
    partition_keys,
    partitions,
    split,
    stamp,
)
from flowstream.messages import MessageBatch
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.ledger import Ledger
    from flowstream.agent.probe import Ring
    from flowstream.encode import Encoder, Identity
    from flowstream.records import CountersRecord
    from flowstream.sink import Sink

QUEUE_BATCHES: Final = 16
"""Batches between the kernel and the encoder: at most 16 · 8,192 records of 230 octets."""
READ_RECORDS: Final = 8_192
"""Records taken out of a ring buffer at once."""
ENCODE_RECORDS: Final = 4_096
"""Records encoded without giving way to the event loop: about 10 ms of JSON."""
COALESCE_S: Final = 0.005
"""How long a reader lets records gather after the first: bounds the work per announcement."""

INTERNAL_ERROR: Final = "internal_error"
"""Cause of loss when a stage of ours fails."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records as a probe hands them on.

    ``records`` has shape (n,) and the dtype ``flowstream.layouts.xdp_flow.FLOW_RECORD``
    (packed, big-endian fields, MessagePack tags in place). The array owns its
    memory: nothing in it aliases a kernel buffer. Times are Unix nanoseconds;
    ``agent_epoch``, ``host_id`` and ``seq`` are not stamped yet.
    """

    stream: Stream
    records: NDArray[np.void]


class Publisher:
    """Encoder and sink behind the bounded queue; the only one that assigns ``seq``.

    Messages have the time of their records, so one run's are the same every time.
    ``discard`` makes it count what still comes as lost under that cause instead of
    publishing it: for the end of a run that has no time left.
    """

    def __init__(
        self,
        sink: Sink,
        encoder: Encoder,
        identity: Identity,
        ledger: Ledger,
        prefix: str,
    ) -> None:
        self._sink, self._encoder, self._identity = sink, encoder, identity
        self._ledger = ledger
        self._queue: asyncio.Queue[tuple[RecordBatch, Tally] | None] = asyncio.Queue(QUEUE_BATCHES)
        self._topics = {stream: f"{prefix}.{stream}" for stream in Stream}
        self._seq = dict.fromkeys(Stream, 0)
        self.discard: str | None = None

    async def put(self, batch: RecordBatch) -> None:
        """Hand over a batch; wait while the queue is full."""
        tally = Tally.of_flows(batch.records)
        self._ledger.drained(batch.stream, tally)
        await self._queue.put((batch, tally))

    async def finish(self) -> None:
        """Let ``run`` end once everything before this call went to the sink."""
        await self._queue.put(None)

    async def run(self, on_fault: Callable[[Exception], object]) -> None:
        """Publish batches until ``finish``.

        A fault of our own goes to ``on_fault``; what comes after it is taken
        and counted as lost, so that no stage before waits for ever.
        """
        while (taken := await self._queue.get()) is not None:
            batch, whole = taken
            for start in range(0, len(batch.records), ENCODE_RECORDS):
                part = slice(start, start + ENCODE_RECORDS)
                tally = whole[part]
                try:
                    await self._publish(batch.stream, batch.records[part], tally)
                except Exception as fault:  # noqa: BLE001 - whatever it is, the run ends in order
                    # Nothing of these has a seq or reached the sink.
                    self._ledger.lost(tally, INTERNAL_ERROR)
                    self.discard = INTERNAL_ERROR
                    on_fault(fault)

    async def _publish(self, stream: Stream, records: NDArray[np.void], tally: Tally) -> None:
        if self.discard:
            self._ledger.lost(tally, self.discard)
            return
        stamp(records, self._identity, self._seq[stream])
        values = self._encoder.encode(records)
        topic = self._topics[stream]
        keys = partition_keys(records)
        to = partitions(keys, self._sink.partitions(topic))
        timestamp_ms = int(records["time_received_ns"].max()) // 1_000_000
        batches = split(stream, topic, values, keys, to, tally, timestamp_ms)
        # Only now: what could not be encoded must leave no gap.
        self._next_seq(stream, len(records))
        self._ledger.encoded(stream, tally)
        for batch in batches:
            self._ledger.queued(batch)
            await self._sink.send(batch)

    async def publish_counters(self, build: Callable[[int], CountersRecord]) -> None:
        """Publish one counters record, which ``build`` makes of its ``seq``.

        All counters of a host go to one partition, so that they stay in order.
        """
        record = build(self._next_seq(Stream.COUNTERS, 1))
        topic = self._topics[Stream.COUNTERS]
        await self._sink.send(
            MessageBatch(
                stream=Stream.COUNTERS,
                topic=topic,
                partition=counters_partition(record, self._sink.partitions(topic)),
                timestamps_ms=[record.time_unix_ns // 1_000_000],
                keys=[counters_key(record)],
                values=[self._encoder.encode_counters(record)],
                tally=Tally.empty(1),
            )
        )

    def _next_seq(self, stream: Stream, count: int) -> int:
        first = self._seq[stream]
        self._seq[stream] = first + count
        return first


async def read_ring(ring: Ring, publisher: Publisher, stop: asyncio.Event) -> None:
    """Move records from ``ring`` to the publisher until ``stop``, then what is left."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            await _readable(ring.fd, stopping)
            if not stop.is_set():
                await asyncio.wait([stopping], timeout=COALESCE_S)
            await _move(ring, publisher)
        while await _move(ring, publisher):
            pass
    finally:
        stopping.cancel()


async def _move(ring: Ring, publisher: Publisher) -> int:
    records = ring.read(READ_RECORDS)
    if len(records):
        await publisher.put(RecordBatch(ring.stream, records))
    return len(records)


async def _readable(fd: int, stopping: asyncio.Future[Any]) -> None:
    """Wait until ``fd`` is readable or ``stopping`` is done."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)


async def move_table(batches: Iterator[NDArray[np.void]], publisher: Publisher) -> int:
    """Drain a table in a worker thread; return the number of records.

    The next batch is drained only when the last one found room in the queue.
    """
    loop = asyncio.get_running_loop()
    count = 0
    while (records := await loop.run_in_executor(None, next, batches, None)) is not None:
        count += len(records)
        await publisher.put(RecordBatch(Stream.FLOWS, records))
    return count

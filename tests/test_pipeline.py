"""The stages between kernel and sink: order, back-pressure, and books that always add up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import msgspec
import numpy as np
import pytest
from support.books import Kept, header
from support.outcomes import eventually
from support.records import COUNTERS, random_flows

from flowstream.accounting import books, terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.identity import Identity
from flowstream.accounting.run import Known, Run
from flowstream.chain.books import Books
from flowstream.encode import make_encoder
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.pipeline.publisher import (
    ENCODE_RECORDS,
    QUEUE_BATCHES,
    Publisher,
    RecordBatch,
)
from flowstream.pipeline.readers import RingReader, move_table
from flowstream.records import FlowRecord, decode
from flowstream.streams import Stream

pytestmark = pytest.mark.anyio

IF_INDEX = 3
EPOCH = 1_763_800_000_000_000_000
NAMES = {IF_INDEX: "eth0"}


class Shelf:
    """A sink that keeps what it accepts; ``gate`` shut makes it as slow as the test wants."""

    fault = None

    def __init__(self, partitions: int = 5) -> None:
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._partitions = partitions

    def partitions(self, topic: str) -> int:
        return self._partitions

    async def send(self, batch) -> None:
        await self.gate.wait()
        self.batches.append(batch)

    def values(self, topic: str) -> list[bytes]:
        return [value for batch in self.batches if batch.topic == topic for value in batch.values]

    def records(self, topic: str = "t.flows") -> list[FlowRecord]:
        return sorted((decode(value) for value in self.values(topic)), key=lambda r: r.seq)


class Pipe:
    """A ring whose records the test writes; its descriptor is as level-triggered as the real."""

    stream = Stream.FLOWS

    def __init__(self) -> None:
        self.fd, self._into = os.pipe()
        self._waiting: list[np.ndarray] = []
        self.produced = self.consumed = 0
        self.most: list[int] = []

    def write(self, records) -> None:
        self._waiting.append(records)
        self.produced += records.nbytes
        os.write(self._into, b".")

    def read(self, most: int):
        self.most.append(most)
        if not self._waiting:
            return np.zeros(0, FLOW_RECORD)
        os.read(self.fd, 1)
        self.consumed += self._waiting[0].nbytes
        return self._waiting.pop(0)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._into)


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


class Rig:
    """A publisher between a shelf and a ledger."""

    def __init__(self, record_format: str = "msgpack", run: Run | None = None) -> None:
        self.run = run or Run(Identity(EPOCH, bytes(16), "host-a", bytes(16), NAMES))
        self.shelf, self.ledger = Shelf(), self.run.ledger
        self.encoder = make_encoder(record_format, self.run.identity)
        self.publisher = Publisher(self.shelf, self.encoder, self.run, "t")

    @property
    def account(self):
        return self.ledger.account(AttachmentKey(IF_INDEX))


def flows(n: int, seed: int = 7):
    return np.array(random_flows(n, seed), FLOW_RECORD)


def loss_of(*records) -> RecordAmount:
    whole = np.concatenate(records, dtype=FLOW_RECORD)
    return RecordAmount(len(whole), int(whole["packets"].sum()), int(whole["l2_bytes"].sum()))


@contextlib.asynccontextmanager
async def running(publisher: Publisher):
    faults: list[Exception] = []
    task = asyncio.ensure_future(publisher.run(faults.append))
    try:
        yield faults
        await publisher.finish()
        await asyncio.wait_for(task, 30)
    finally:
        task.cancel()


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
async def test_records_become_messages_with_gapless_seq(record_format):
    rig = Rig(record_format)
    sent = [flows(n, seed=n) for n in (1, 101, ENCODE_RECORDS, ENCODE_RECORDS + 1, 9_001)]
    async with running(rig.publisher):
        for records in sent:
            await rig.publisher.put(RecordBatch(Stream.FLOWS, records.copy()))
        await rig.publisher.put(RecordBatch(Stream.NEW_FLOWS, sent[1].copy()))
    total = sum(map(len, sent))
    got = rig.shelf.records()
    assert [record.seq for record in got] == list(range(total))
    ports = np.concatenate([records["src_port"] for records in sent]).tolist()
    assert [record.src_port for record in got] == ports
    assert {(record.agent_epoch, record.if_name) for record in got} == {(EPOCH, "eth0")}
    # A stream counts for itself.
    assert [record.seq for record in rig.shelf.records("t.new_flows")] == list(range(101))
    stage = rig.account.flows
    assert (stage.drained, stage.encoded, stage.queued) == (total, total, total)
    assert rig.account.new_flows.encoded == 101


async def test_messages_have_the_time_at_which_records_left_the_kernel():
    """The latest of those encoded together; of counters, when they were read."""
    rig = Rig()
    early, late = flows(101), flows(ENCODE_RECORDS + 1, seed=3)
    early["time_received_ns"] = EPOCH
    # None but the latest counts, wherever it stands; the last one is encoded by itself.
    late["time_received_ns"] = EPOCH + 1
    late["time_received_ns"][[7, ENCODE_RECORDS]] = EPOCH + 3_000_000, EPOCH + 5_000_000
    async with running(rig.publisher):
        for stream, records in ((Stream.FLOWS, early), (Stream.FLOWS, late)):
            await rig.publisher.put(RecordBatch(stream, records.copy()))
        await rig.publisher.put(RecordBatch(Stream.NEW_FLOWS, early.copy()))
    await rig.publisher.publish_counters(lambda seq: msgspec.structs.replace(COUNTERS, seq=seq))
    times = {}
    for batch in rig.shelf.batches:
        times.setdefault(batch.topic, set()).update(batch.timestamps_ms)
    begin = EPOCH // 1_000_000
    assert times == {
        "t.flows": {begin, begin + 3, begin + 5},
        "t.new_flows": {begin},
        "t.counters": {COUNTERS.time_unix_ns // 1_000_000},
    }


async def test_both_directions_meet_in_one_partition():
    rig = Rig()
    there = flows(101)
    back = there.copy()
    for one, other in (("src_addr", "dst_addr"), ("src_port", "dst_port")):
        back[one], back[other] = there[other], there[one]
    async with running(rig.publisher):
        await rig.publisher.put(RecordBatch(Stream.FLOWS, there))
        await rig.publisher.put(RecordBatch(Stream.FLOWS, back))
    home: dict[bytes, set[int]] = {}
    for batch in rig.shelf.batches:
        for key in batch.keys:
            home.setdefault(key, set()).add(batch.partition)
    assert {len(partitions) for partitions in home.values()} == {1}
    assert len(home) <= 101
    assert len({batch.partition for batch in rig.shelf.batches}) > 1


async def test_a_slow_sink_stops_the_readers():
    rig = Rig()
    rig.shelf.gate.clear()
    put = 0

    async def fill() -> None:
        nonlocal put
        for number in range(QUEUE_BATCHES + 7):
            await rig.publisher.put(RecordBatch(Stream.FLOWS, flows(11, seed=number)))
            put += 1

    async with running(rig.publisher):
        filling = asyncio.ensure_future(fill())
        # One is in the publisher's hands, the queue is full, the next one waits.
        await eventually(lambda: put == QUEUE_BATCHES + 1)
        for _ in range(101):
            await asyncio.sleep(0)
        assert put == QUEUE_BATCHES + 1
        rig.shelf.gate.set()
        await asyncio.wait_for(filling, 30)
    assert len(rig.shelf.records()) == 11 * (QUEUE_BATCHES + 7)


async def test_what_is_discarded_is_counted_and_gets_no_seq():
    rig = Rig()
    first, second = flows(101), flows(211, seed=3)
    announcements = second.copy()
    for name in ("packets", "bytes", "l2_bytes"):
        announcements[name] = 0
    async with running(rig.publisher):
        await rig.publisher.put(RecordBatch(Stream.FLOWS, first.copy()))
        await eventually(lambda: len(rig.shelf.records()) == 101)
        rig.publisher.discard = "shutdown"
        await rig.publisher.put(RecordBatch(Stream.FLOWS, second.copy()))
        await rig.publisher.put(RecordBatch(Stream.NEW_FLOWS, announcements))
    assert len(rig.shelf.records()) == 101
    counted = loss_of(second)
    # Announcements carry no packets.
    assert rig.account.losses == {"shutdown": counted.plus(RecordAmount(211))}
    assert (rig.account.flows.drained, rig.account.flows.encoded) == (312, 101)


async def test_a_fault_of_our_own_counts_the_batch_in_hand(monkeypatch):
    rig = Rig()
    good = flows(ENCODE_RECORDS + 101)
    encode, calls = rig.encoder.encode, []

    def failing(records):
        calls.append(len(records))
        if len(calls) == 2:
            raise ValueError("a bug")
        return encode(records)

    monkeypatch.setattr(rig.encoder, "encode", failing)
    async with running(rig.publisher) as faults:
        await rig.publisher.put(RecordBatch(Stream.FLOWS, good.copy()))
        await rig.publisher.put(RecordBatch(Stream.FLOWS, good.copy()))
    assert [str(fault) for fault in faults] == ["a bug"]
    # The part that failed, and all that came after it.
    assert rig.account.losses == {terms.INTERNAL_ERROR: loss_of(good[ENCODE_RECORDS:], good)}
    got = rig.shelf.records()
    assert [record.seq for record in got] == list(range(ENCODE_RECORDS))
    assert rig.account.flows.encoded == len(got)


async def test_counters_are_numbered_and_stay_in_one_partition():
    rig = Rig()
    for _ in range(7):
        await rig.publisher.publish_counters(
            lambda seq: msgspec.structs.replace(COUNTERS, seq=seq)
        )
    records = [decode(value) for value in rig.shelf.values("t.counters")]
    assert [record.seq for record in records] == list(range(7))
    assert len({batch.partition for batch in rig.shelf.batches}) == 1
    key = f"{COUNTERS.host_id.hex()}/{COUNTERS.agent_epoch}/3/1".encode()
    assert {each for batch in rig.shelf.batches for each in batch.keys} == {key}


async def test_a_ring_is_read_until_it_is_told_to_stop(pipe):
    rig = Rig()
    reader = RingReader(pipe, rig.publisher)
    sent = [flows(n, seed=n) for n in (1, 101, 211)]
    async with running(rig.publisher):
        reading = asyncio.ensure_future(reader.run())
        for records in sent:
            pipe.write(records.copy())
            await eventually(lambda: not pipe._waiting)
        pipe.write(flows(307, seed=307))
        reader.stop()
        await asyncio.wait_for(reading, 30)
    # Records that were in the ring at the end came along.
    assert len(rig.shelf.records()) == 1 + 101 + 211 + 307
    assert not pipe._waiting


async def test_catching_up_waits_for_all_that_was_in_the_ring(pipe):
    rig = Rig()
    reader = RingReader(pipe, rig.publisher)
    pipe.write(flows(101))
    pipe.write(flows(211, seed=3))
    async with running(rig.publisher):
        await asyncio.wait_for(reader.catch_up(), 30)
        assert not pipe._waiting
        await asyncio.wait_for(rig.publisher.passed(), 30)
        assert len(rig.shelf.records()) == 101 + 211
        # With nothing in the ring there is nothing to wait for.
        await asyncio.wait_for(reader.catch_up(), 30)


async def test_catching_up_waits_for_records_that_are_on_their_way(pipe):
    """The reader has taken them out, but the publisher's queue has no room for them yet."""
    rig = Rig()
    rig.shelf.gate.clear()
    reader = RingReader(pipe, rig.publisher)
    async with running(rig.publisher):
        reading = asyncio.ensure_future(reader.run())
        for number in range(QUEUE_BATCHES + 2):
            pipe.write(flows(7, seed=number))
            await eventually(lambda: not pipe._waiting)
        caught_up = asyncio.ensure_future(reader.catch_up())
        for _ in range(101):
            await asyncio.sleep(0)
        assert not caught_up.done()
        rig.shelf.gate.set()
        await asyncio.wait_for(caught_up, 30)
        reader.stop()
        await asyncio.wait_for(reading, 30)
    assert len(rig.shelf.records()) == 7 * (QUEUE_BATCHES + 2)


async def test_a_ring_that_stays_empty_is_left_at_once(pipe):
    rig = Rig()
    reader = RingReader(pipe, rig.publisher)
    reading = asyncio.ensure_future(reader.run())
    await asyncio.sleep(0)
    assert not reading.done()
    assert not pipe.most, "nothing is read before there is something"
    reader.stop()
    await asyncio.wait_for(reading, 30)
    assert not asyncio.get_running_loop().remove_reader(pipe.fd), "it is still watched"


async def test_a_ring_that_fails_fails_its_reader(pipe):
    rig = Rig()
    pipe.write(flows(1))

    def fail(most: int):
        raise ValueError("not what a record looks like")

    pipe.read = fail
    with pytest.raises(ValueError, match="not what a record looks like"):
        await asyncio.wait_for(RingReader(pipe, rig.publisher).run(), 30)


async def test_a_table_is_drained_in_another_thread_and_no_faster_than_it_is_published():
    rig = Rig()
    rig.shelf.gate.clear()
    threads, taken = set(), 0

    def drain():
        nonlocal taken
        for number in range(QUEUE_BATCHES + 11):
            threads.add(threading.get_ident())
            taken += 1
            yield flows(7, seed=number)

    async with running(rig.publisher):
        moving = asyncio.ensure_future(move_table(drain(), rig.publisher))
        # One with the publisher, the queue full, one that waits to be put.
        await eventually(lambda: taken == QUEUE_BATCHES + 2)
        for _ in range(101):
            await asyncio.sleep(0)
        assert taken == QUEUE_BATCHES + 2
        rig.shelf.gate.set()
        assert await asyncio.wait_for(moving, 30) == 7 * (QUEUE_BATCHES + 11)
    assert threading.get_ident() not in threads
    assert len(rig.shelf.records()) == 7 * (QUEUE_BATCHES + 11)


async def test_an_empty_table_moves_nothing():
    rig = Rig()
    assert await move_table(iter(()), rig.publisher) == 0


async def test_a_drain_that_fails_is_no_silent_loss():
    rig = Rig()

    def drain():
        yield flows(7)
        raise ValueError("the kernel said no")

    with pytest.raises(ValueError, match="the kernel said no"):
        await move_table(drain(), rig.publisher)
    assert rig.account.flows.drained == 7


async def test_a_restored_run_goes_on_where_its_books_end():
    first, kept = Rig(), Kept()
    Books(kept, header(first.run.identity), first.run)
    first.run.know(AttachmentKey(IF_INDEX), Known(Facts("eth0"), attached=True, kernel=None))
    sent = flows(ENCODE_RECORDS + 101)
    async with running(first.publisher):
        await first.publisher.put(RecordBatch(Stream.FLOWS, sent.copy()))
        await first.publisher.put(RecordBatch(Stream.NEW_FLOWS, sent[:7].copy()))
    await first.publisher.publish_counters(lambda seq: msgspec.structs.replace(COUNTERS, seq=seq))
    settle(first, failed=211, in_doubt=11)
    first.run.write_books()

    ended = books.read(kept.items())
    assert (ended.header.agent_epoch, ended.header.topic_prefix) == (EPOCH, "t")
    second = Rig(run=Run.restore(ended))
    assert second.run.identity == first.run.identity
    assert second.ledger.accounts() == first.ledger.accounts()
    assert second.account.losses["delivery_timeout"].records == 211
    assert second.account.in_doubt["delivery_timeout"].records == 11
    assert second.account.settled
    async with running(second.publisher):
        await second.publisher.put(RecordBatch(Stream.FLOWS, sent[:13].copy()))
        await second.publisher.put(RecordBatch(Stream.NEW_FLOWS, sent[:3].copy()))
    await second.publisher.publish_counters(lambda seq: msgspec.structs.replace(COUNTERS, seq=seq))
    seqs = {
        topic: [record.seq for record in second.shelf.records(topic)]
        for topic in ("t.flows", "t.new_flows", "t.counters")
    }
    assert seqs == {
        "t.flows": list(range(len(sent), len(sent) + 13)),
        "t.new_flows": [7, 8, 9],
        "t.counters": [1],
    }
    assert {record.agent_epoch for record in second.shelf.records()} == {EPOCH}
    assert {record.if_name for record in second.shelf.records()} == {"eth0"}
    assert second.account.flows.encoded == len(sent) + 13


async def test_a_run_restored_from_its_books_knows_the_attachments_that_went():
    rig, kept = Rig(), Kept()
    Books(kept, header(rig.run.identity), rig.run)
    key = AttachmentKey(IF_INDEX, 1)
    counts = KernelCounts(
        Amount(101, 10_007),
        dict.fromkeys(terms.NO_FLOW, Amount()),
        dict.fromkeys((terms.OVERFLOW_LOST, terms.ANNOUNCEMENT_LOST), RecordAmount()),
    )
    rig.run.know(key, Known(Facts("eth0", "site"), attached=True, kernel=None))
    rig.ledger.account(key).flows.acknowledged = 13
    rig.run.know(key, Known(Facts("eth0", "site"), attached=False, kernel=counts))
    await rig.publisher.publish_counters(lambda seq: msgspec.structs.replace(COUNTERS, seq=seq))
    rig.run.close_account(key, counts)
    restored = Run.restore(books.read(kept.items()))
    assert restored.known[key] == Known(Facts("eth0", "site"), attached=False, kernel=counts)
    assert restored.ledger.account(key).flows.acknowledged == 13
    # Once its final counters are published, nobody needs it.
    rig.ledger.acknowledged(rig.shelf.batches[-1], slice(0, 1))
    rig.run.write_books()
    assert books.read(kept.items()).entries == {}
    assert rig.run.reopen_account(key) == counts


def settle(rig: Rig, *, failed: int, in_doubt: int) -> None:
    """Give every record of the flows and new flows that were sent an outcome."""
    batches = [batch for batch in rig.shelf.batches if batch.stream is not Stream.COUNTERS]
    for batch in batches:
        lost, doubted = min(failed, len(batch)), 0
        failed -= lost
        doubted = min(in_doubt, len(batch) - lost)
        in_doubt -= doubted
        parts = (slice(0, lost), slice(lost, lost + doubted), slice(lost + doubted, len(batch)))
        rig.ledger.failed(batch, parts[0], "delivery_timeout")
        rig.ledger.in_doubt(batch, parts[1], "delivery_timeout")
        rig.ledger.acknowledged(batch, parts[2])

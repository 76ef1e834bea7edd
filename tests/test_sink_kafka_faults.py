"""The Kafka sink with a broker that dies, comes back, or does not answer."""

from __future__ import annotations

import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio
import pytest
from broker import Broker
from support.line import Line, line, listen
from support.outcomes import VALUE_BYTES, Account, eventually, make_batch, new_topic, number

from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.anyio

RANDOM_BYTES = VALUE_BYTES - 12
"""Octets of a value that no compression makes fewer."""


@pytest.fixture(scope="module")
def one_broker() -> Iterator[Broker]:
    with Broker() as one:
        yield one


@pytest.fixture
def mortal(one_broker: Broker) -> Broker:
    """A running broker that a test may kill."""
    if not one_broker.running:
        one_broker.start()
    return one_broker


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """Stop the broker's process: its sockets accept bytes, and nothing answers."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


async def started(broker: Broker, account: Account, limits: Limits) -> tuple[KafkaSink, str]:
    topic = new_topic()
    sink = KafkaSink(broker.cluster, account, partitions=2, limits=limits)
    await sink.start([topic])
    return sink, topic


async def numbers_in(broker: Broker, topic: str, partition: int) -> list[int]:
    source = open_source(broker.url, [topic])
    return [
        number(m.value)
        async for batch in source.batches()
        for m in batch
        if m.partition == partition
    ]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_broker_restarted_under_load_loses_nothing(
    mortal: Broker, how: signal.Signals
) -> None:
    account = Account()
    sink, topic = await started(mortal, account, Limits())
    sent = 0
    restarted = anyio.Event()

    async def restart() -> None:
        await anyio.to_thread.run_sync(mortal.restart, how)
        restarted.set()

    async with anyio.create_task_group() as tasks:
        while sent < 60 * 199 or not restarted.is_set():
            if sent == 30 * 199:
                tasks.start_soon(restart)
            for partition in (0, 1):
                await sink.send(make_batch(topic, partition, sent, 199))
            sent += 199
            await anyio.sleep(0.005)
    await sink.flush(60)
    assert not account.causes
    assert account.settled == 2 * sent
    for partition in (0, 1):
        numbers = await numbers_in(mortal, topic, partition)
        # The same producer goes on, but after its start a broker (4.1.1) may not know the
        # sequence number of its last batch, and accepts the batch again.
        numbers = list(dict.fromkeys(numbers))
        assert numbers == list(range(sent))
    await sink.close(5)


async def test_broker_gone_for_good_every_record_is_given_up_in_time(mortal: Broker) -> None:
    account = Account()
    limits = Limits(in_flight_bytes=1_000_000, delivery_timeout=0.7, request_timeout=2)
    sink, topic = await started(mortal, account, limits)
    await anyio.to_thread.run_sync(mortal.stop, signal.SIGKILL)
    with anyio.fail_after(60):
        # More than twice the space: the later ones wait until the earlier ones expire.
        for n in range(12):
            await sink.send(make_batch(topic, n % 2, n * 997, 997))
    assert account.settled > 0
    await eventually(lambda: account.settled == 12 * 997)
    # Nothing is in doubt: no request was sent.
    assert account.causes == {"delivery_timeout": 12 * 997}
    with anyio.fail_after(60):
        await sink.close(3_600)
    await anyio.to_thread.run_sync(mortal.start)
    for partition in (0, 1):
        assert await numbers_in(mortal, topic, partition) == []


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_flush_and_close_keep_their_deadlines(mortal: Broker, end: str) -> None:
    account = Account()
    limits = Limits(delivery_timeout=3_600, request_timeout=3_600, stuck_timeout=3_600)
    sink, topic = await started(mortal, account, limits)
    if end == "killed":
        await anyio.to_thread.run_sync(mortal.stop, signal.SIGKILL)
    with frozen(mortal) if end == "frozen" else nullcontext(), anyio.fail_after(60):
        await sink.send(make_batch(topic, 0, 0, 997))
        if end == "frozen":
            await eventually(lambda: sink._supervisor._producer.was_sent(topic, 0))
        begin = time.monotonic()
        await sink.flush(0.5)
        assert time.monotonic() - begin > 0.4
        # A frozen broker has the request in its socket; a killed one never got it.
        in_doubt, failed = (997, 0) if end == "frozen" else (0, 997)
        assert account.doubts.total() == account.doubts["shutdown"] == in_doubt
        assert account.causes.total() == account.causes["shutdown"] == failed
        await sink.send(make_batch(topic, 1, 997, 499))
        begin = time.monotonic()
        await sink.close(0.5)
        assert time.monotonic() - begin > 0.4
        # No other producer was connected by then.
        assert account.doubts["shutdown"] == in_doubt
        assert account.causes["shutdown"] == failed + 499
        await sink.close(0.5)


async def test_frozen_broker_gets_a_new_producer_and_no_gap(mortal: Broker) -> None:
    account = Account()
    limits = Limits(stuck_timeout=1, connect_timeout=1)
    sink, topic = await started(mortal, account, limits)
    await sink.send(make_batch(topic, 0, 0, 997))
    await sink.flush(60)
    with frozen(mortal):
        for n in range(1, 5):
            await sink.send(make_batch(topic, 0, n * 997, 997))
        await anyio.to_thread.run_sync(lambda: time.sleep(2.5))
    await eventually(lambda: account.settled == 5 * 997)
    assert not account.causes
    numbers = await numbers_in(mortal, topic, 0)
    # Records in progress may be there twice; nothing is missing or out of order.
    assert list(dict.fromkeys(numbers)) == list(range(5 * 997))
    await sink.close(5)


@asynccontextmanager
async def through_line(
    broker_factory: Callable[..., Broker], account: Account, limits: Limits
) -> AsyncIterator[tuple[Broker, KafkaSink, str, Line]]:
    """A broker, a sink that reaches it only through a line, a topic, and the line."""
    with listen() as listener:
        port = listener.getsockname()[1]
        broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})
        topic = new_topic()
        async with line(listener, broker.port) as relay:
            settings = ClientSettings((f"127.0.0.1:{port}",))
            sink = KafkaSink(settings, account, partitions=2, limits=limits)
            await sink.start([topic])
            await sink.send(make_batch(topic, 0, 0, 1))
            await sink.flush(10)
            yield broker, sink, topic, relay


async def test_slow_line_carries_what_it_can(broker_factory: Callable[..., Broker]) -> None:
    account = Account()
    limits = Limits(
        delivery_timeout=4, stuck_timeout=2, request_timeout=1, in_flight_bytes=1 << 20
    )
    async with through_line(broker_factory, account, limits) as (broker, sink, topic, slow):
        # A batch of 512 KiB takes ten times as long as a request may.
        slow.bytes_per_second = 50_000

        async def overload() -> None:
            for first in range(1, 1_000_000, 1009):
                for partition in (0, 1):
                    await sink.send(make_batch(topic, partition, first, 1009))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(overload)
            # Once the batches are small enough, the line is full of records that arrive: as many
            # as the batch had that never could. While the machine has others to run, requests
            # are late, and sent again.
            enough = limits.batch_bytes // VALUE_BYTES
            await eventually(lambda: len(account.acknowledged_values) > enough, 150)
            tasks.cancel_scope.cancel()
        slow.bytes_per_second = None
        await sink.close(60)
        assert account.causes.keys() == {"delivery_timeout"}
        assert account.doubts.keys() == {"delivery_timeout"}
        values = {
            m.value async for batch in open_source(broker.url, [topic]).batches() for m in batch
        }
        assert values >= set(account.acknowledged_values)
        assert not values & set(account.failed_values)
        for partition in (0, 1):
            numbers = await numbers_in(broker, topic, partition)
            # A record may be there twice, in its place, if its first answer was late.
            assert list(dict.fromkeys(numbers)) == sorted(set(numbers))
            assert len(numbers) < len(set(numbers)) * 1.5


@pytest.mark.parametrize("end", ["flush", "deadline"])
async def test_records_that_were_written_and_never_answered_are_in_doubt(
    broker_factory: Callable[..., Broker], end: str
) -> None:
    account = Account()
    limits = Limits(delivery_timeout=5 if end == "deadline" else 30, request_timeout=5)
    async with through_line(broker_factory, account, limits) as (broker, sink, topic, relay):
        relay.mute = True
        before = relay.carried
        await sink.send(make_batch(topic, 1, 1, 499))
        await eventually(lambda: relay.carried - before > 499 * RANDOM_BYTES)
        # Waits behind the flight: no producer ever gets it.
        await sink.send(make_batch(topic, 1, 500, 199))
        if end == "flush":
            await sink.flush(1)
        else:
            await eventually(lambda: account.settled == 1 + 499 + 199)
        cause = "shutdown" if end == "flush" else "delivery_timeout"
        assert account.doubts == {cause: 499}
        assert account.causes == {cause: 199}
        assert list(map(number, account.doubtful_values)) == list(range(1, 500))
        relay.mute = False
        assert await numbers_in(broker, topic, 1) == list(range(1, 500))
        await sink.close(5)
        # No second outcome, and no failed record is in the topic.
        assert account.settled == 1 + 499 + 199
        assert await numbers_in(broker, topic, 1) == list(range(1, 500))


async def test_deadlines_are_enforced_also_after_a_fault(mortal: Broker, monkeypatch) -> None:
    account = Account()
    limits = Limits(delivery_timeout=1, request_timeout=1, stuck_timeout=1)
    sink = KafkaSink(mortal.cluster, account, partitions=1, limits=limits)
    topic = new_topic()
    await sink.start([topic])
    mortal.stop(signal.SIGKILL)
    expire, faults = sink._lanes.expire, iter([ValueError("a bug")])

    def fail_once(now: float) -> None:
        for fault in faults:
            raise fault
        expire(now)

    monkeypatch.setattr(sink._lanes, "expire", fail_once)
    await sink.send(make_batch(topic, 0, 0, 101))
    await eventually(lambda: account.settled == 101)
    # The run ends, since nobody knows what else is wrong.
    assert sink.fault == f"{mortal.url}: ValueError('a bug')"
    await sink.close(1)


@pytest.mark.parametrize("how", ["cancelled", "fault"])
async def test_a_sink_whose_supervisor_has_ended_says_so(
    mortal: Broker, monkeypatch, how: str
) -> None:
    account = Account()
    sink = KafkaSink(mortal.cluster, account, partitions=1, limits=Limits(delivery_timeout=1))
    topic = new_topic()
    await sink.start([topic])
    assert sink.fault is None
    if how == "cancelled":
        sink._supervisor._task.cancel()
    else:
        monkeypatch.setattr(sink._cluster, "reconnect", fail)
        sink._supervisor._give_up("for the test")
    await eventually(lambda: sink.fault)
    expected = "CancelledError()" if how == "cancelled" else "ValueError('a bug')"
    assert sink.fault == f"{mortal.url}: publishing has ended: {expected}"
    # Records still get an outcome.
    await sink.send(make_batch(topic, 0, 0, 101))
    await eventually(lambda: account.settled == 101)
    await sink.close(1)


async def fail() -> None:
    raise ValueError("a bug")

"""The Kafka sink against a broker that dies, comes back, or does not answer."""

from __future__ import annotations

import os
import signal
import time
import uuid
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio
import pytest
from broker import Broker
from support.line import line, listen
from support.outcomes import VALUE_BYTES, Account, eventually, make_batch, number

from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def one_broker() -> Iterator[Broker]:
    with Broker() as one:
        yield one


@pytest.fixture
def mortal(one_broker: Broker) -> Broker:
    """A broker that is up and may be killed."""
    if not one_broker.running:
        one_broker.start()
    return one_broker


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """The broker's process stopped: its sockets take bytes and nothing answers."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def new_topic() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


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
    await sink.flush(30)
    assert not account.causes
    assert account.settled == 2 * sent
    for partition in (0, 1):
        numbers = await numbers_in(mortal, topic, partition)
        # The same producer goes on, but a broker that starts (4.1.1) may have forgotten the
        # sequence number of the last batch that it has, and takes it again.
        numbers = list(dict.fromkeys(numbers))
        assert numbers == list(range(sent))
    await sink.close(5)


async def test_broker_gone_for_good_every_record_fails_in_time(mortal: Broker) -> None:
    account = Account()
    limits = Limits(in_flight_bytes=1_000_000, delivery_timeout=0.7, request_timeout=2)
    sink, topic = await started(mortal, account, limits)
    await anyio.to_thread.run_sync(mortal.stop, signal.SIGKILL)
    with anyio.fail_after(10):
        # More than twice the space: the later ones wait until the earlier ones have expired.
        for n in range(12):
            await sink.send(make_batch(topic, n % 2, n * 997, 997))
    assert account.settled > 0
    await eventually(lambda: account.settled == 12 * 997, 10)
    assert account.causes == {"delivery_timeout": 12 * 997}
    begin = time.monotonic()
    await sink.close(5)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_flush_and_close_keep_their_deadlines(mortal: Broker, end: str) -> None:
    account = Account()
    sink, topic = await started(mortal, account, Limits())
    if end == "killed":
        await anyio.to_thread.run_sync(mortal.stop, signal.SIGKILL)
    with frozen(mortal) if end == "frozen" else nullcontext():
        await sink.send(make_batch(topic, 0, 0, 997))
        begin = time.monotonic()
        await sink.flush(0.5)
        assert 0.4 < time.monotonic() - begin < 1
        assert account.causes == {"shutdown": 997}
        await sink.send(make_batch(topic, 1, 997, 499))
        begin = time.monotonic()
        await sink.close(0.5)
        assert 0.4 < time.monotonic() - begin < 2
        assert account.causes == {"shutdown": 997 + 499}
        await sink.close(0.5)


async def test_frozen_broker_gets_a_new_producer_and_no_gap(mortal: Broker) -> None:
    account = Account()
    limits = Limits(stuck_timeout=1, connect_timeout=1)
    sink, topic = await started(mortal, account, limits)
    await sink.send(make_batch(topic, 0, 0, 997))
    await sink.flush(10)
    with frozen(mortal):
        for n in range(1, 5):
            await sink.send(make_batch(topic, 0, n * 997, 997))
        await anyio.to_thread.run_sync(lambda: time.sleep(2.5))
    await eventually(lambda: account.settled == 5 * 997, 20)
    assert not account.causes
    numbers = await numbers_in(mortal, topic, 0)
    # What was under way may be there twice, by its number; nothing is missing or out of order.
    assert list(dict.fromkeys(numbers)) == list(range(5 * 997))
    await sink.close(5)


async def test_killed_sender_task_is_noticed(mortal: Broker) -> None:
    account = Account()
    sink, topic = await started(mortal, account, Limits(stuck_timeout=1))
    await sink.send(make_batch(topic, 0, 0, 997))
    await sink.flush(10)
    import asyncio

    (sender,) = [t for t in asyncio.all_tasks() if "_sender_routine" in repr(t.get_coro())]
    sender.cancel()
    await sink.send(make_batch(topic, 0, 997, 997))
    await eventually(lambda: account.settled == 2 * 997, 10)
    assert await numbers_in(mortal, topic, 0) == list(range(2 * 997))
    await sink.close(5)


async def test_slow_line_carries_what_it_can(broker_factory: Callable[..., Broker]) -> None:
    listener = listen()
    port = listener.getsockname()[1]
    broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})
    account = Account()
    limits = Limits(
        delivery_timeout=4, stuck_timeout=2, request_timeout=1, in_flight_bytes=1 << 20
    )
    topic = new_topic()
    with listener:
        async with line(listener, broker.port) as slow:
            sink = KafkaSink(
                ClientSettings((f"127.0.0.1:{port}",)), account, partitions=2, limits=limits
            )
            await sink.start([topic])
            await sink.send(make_batch(topic, 0, 0, 1))
            await sink.flush(10)
            # A batch of 512 KiB takes ten times as long as a request may.
            slow.bytes_per_second = 50_000

            async def overload() -> None:
                for first in range(1, 1_000_000, 1009):
                    for partition in (0, 1):
                        await sink.send(make_batch(topic, partition, first, 1009))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(overload)
                # From when the batches fit on it is full of records that arrive.
                await eventually(lambda: len(account.acknowledged_values) > 1, 20)
                before = len(account.acknowledged_values)
                await anyio.sleep(5)
                taken = (len(account.acknowledged_values) - before) * VALUE_BYTES
                tasks.cancel_scope.cancel()
            assert taken > slow.bytes_per_second * 5 * 0.5
            slow.bytes_per_second = None
            await sink.close(10)
            assert account.causes.keys() == {"delivery_timeout"}
            for partition in (0, 1):
                numbers = await numbers_in(broker, topic, partition)
                # What was under way may be there twice, by its number.
                assert list(dict.fromkeys(numbers)) == sorted(set(numbers))
                assert len(numbers) < len(set(numbers)) * 1.1

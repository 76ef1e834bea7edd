"""The Kafka sink that is started without a broker, and what it says of the cluster's state."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog.testing
from broker import free_ports
from support.line import line, listen
from support.outcomes import Account, eventually, make_batch, new_topic, number

from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker
    from broker.secure import SecureBroker

pytestmark = pytest.mark.anyio


async def places(broker: Broker, topic: str) -> list[tuple[int, int]]:
    """Partition and number of each message."""
    return [
        (m.partition, number(m.value))
        async for batch in open_source(broker.url, [topic]).batches()
        for m in batch
    ]


@pytest.mark.parametrize("existing", [None, 2])
async def test_records_accepted_before_the_broker_is_there_are_published(
    broker_factory: Callable[..., Broker], existing: int | None
) -> None:
    broker, topic, account = broker_factory(), new_topic(), Account()
    if existing:
        first = KafkaSink(broker.cluster, Account(), partitions=existing)
        await first.start([topic])
        await first.close(5)
    await anyio.to_thread.run_sync(broker.stop)
    sink = KafkaSink(broker.cluster, account, partitions=5)
    with structlog.testing.capture_logs() as logs:
        await sink.start([topic], wait=False)
        assert sink.partitions(topic) == 5
        assert not sink.acknowledging
        for partition in range(5):
            await sink.send(make_batch(topic, partition, 101 * partition, 101))
        await eventually(lambda: logs)
        await anyio.to_thread.run_sync(broker.start)
        await eventually(lambda: account.settled == 505)
    assert len(account.acknowledged_values) == 505
    number_of_partitions = existing or 5
    assert sink.partitions(topic) == number_of_partitions
    assert sorted(await places(broker, topic)) == sorted(
        (n // 101 % number_of_partitions, n) for n in range(505)
    )
    waits = [each for each in logs if each["event"] == "kafka_unreachable"]
    assert [each["reason"] for each in waits] == [
        f"{broker.address} connection refused; start a broker there or correct the address"
    ]
    assert [each["event"] for each in logs].count("kafka_reachable") == 1
    await sink.close(5)


async def test_a_fault_that_lasts_is_told_after_no_answer(secure_broker: SecureBroker) -> None:
    """A broker that comes back with another listener is not waited for in silence."""
    # No port of a client's: one that connects to it could meet itself.
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    limits = Limits(backoff=(0.01, 0.02))
    sink = KafkaSink(ClientSettings((address,)), Account(), partitions=1, limits=limits)
    with structlog.testing.capture_logs() as logs:
        await sink.start([new_topic()], wait=False)
        await eventually(lambda: logs)
        with listen(port=port) as listener:
            async with line(listener, secure_broker.ports["TLS"]):
                await eventually(lambda: len(logs) > 1)
                await sink.close(1)
    assert [each["reason"] for each in logs if each["event"] == "kafka_unreachable"] == [
        f"{address} connection refused; start a broker there or correct the address",
        f"{address} requires TLS; set security.protocol=SSL, or SASL_SSL with SASL",
    ]


async def test_a_topic_that_cannot_be_created_is_waited_for_and_named(broker: Broker) -> None:
    sink = KafkaSink(broker.cluster, Account(), partitions=1, limits=Limits(backoff=(0.01, 0.02)))
    with structlog.testing.capture_logs() as logs:
        await sink.start(["no/such"], wait=False)
        await eventually(lambda: logs)
        # Ten further attempts are not logged.
        await anyio.sleep(1)
    (line,) = logs
    assert line["event"] == "kafka_unreachable"
    assert "topic no/such cannot be created" in line["reason"]
    assert sink.fault is None
    await sink.close(1)


async def test_a_sink_that_never_connected_gives_its_records_up(broker: Broker) -> None:
    account = Account()
    sink = KafkaSink(ClientSettings(("127.0.0.1:9",)), account, partitions=3)
    await sink.start(["t"], wait=False)
    await sink.send(make_batch("t", 2, 0, 101))
    await sink.flush(0)
    # Nothing was sent: nothing is in doubt.
    assert account.causes == {"shutdown": 101}
    await sink.send(make_batch("t", 2, 101, 101))
    await sink.close(0)
    assert account.causes == {"shutdown": 202}


async def test_acknowledging_follows_the_answers(broker_factory: Callable[..., Broker]) -> None:
    broker, topic, account = broker_factory(), new_topic(), Account()
    sink = KafkaSink(broker.cluster, account, partitions=1, limits=Limits(answer_timeout=0.5))
    await sink.start([topic])
    assert sink.acknowledging
    await sink.send(make_batch(topic, 0, 0, 101))
    await sink.flush(60)
    assert sink.acknowledging
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        # Without records nothing is unanswered.
        await anyio.sleep(1)
        assert sink.acknowledging
        await sink.send(make_batch(topic, 0, 101, 101))
        await eventually(lambda: not sink.acknowledging)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    await eventually(lambda: account.settled == 202)
    assert sink.acknowledging
    await sink.close(5)


async def test_share_of_memory_in_use() -> None:
    limits = Limits(in_flight_bytes=101 * (203 + 8 + 24) * 4)
    sink = KafkaSink(ClientSettings(("127.0.0.1:9",)), Account(), partitions=1, limits=limits)
    await sink.start(["t"], wait=False)
    assert sink.memory_share == 0
    for share in (0.25, 0.5):
        await sink.send(make_batch("t", 0, 0, 101))
        assert sink.memory_share == share
    await sink.close(0)
    assert sink.memory_share == 0

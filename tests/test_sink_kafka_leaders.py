"""The Kafka sink and a real cluster of three brokers that lose and regain nodes."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from broker import Broker
from support.outcomes import Account, eventually, make_batch, new_topic, number

from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio
PROPERTIES = {"default.replication.factor": "3", "min.insync.replicas": "2"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Broker]]:
    """Three brokers; the first one is the controller too."""
    with ExitStack() as stack:
        first = stack.enter_context(Broker(PROPERTIES))
        others = [
            stack.enter_context(Broker(PROPERTIES, join=first, node=node)) for node in (2, 3)
        ]
        yield [first, *others]


@pytest.fixture
def cluster(nodes: list[Broker]) -> ClientSettings:
    return ClientSettings(tuple(node.address for node in nodes))


class Load:
    """Sends records to each of three partitions, until told to stop."""

    def __init__(self, sink: KafkaSink, topic: str) -> None:
        self.sent = 0
        self._sink, self._topic = sink, topic

    async def run(self) -> None:
        while True:
            for partition in range(3):
                await self._sink.send(make_batch(self._topic, partition, self.sent, 101))
            self.sent += 101
            await anyio.sleep(0.02)


async def numbers_in(cluster: ClientSettings, topic: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    async for batch in open_source(cluster.url, [topic]).batches():
        for message in batch:
            found.setdefault(message.partition, []).append(number(message.value))
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("node", [0, 1])
async def test_a_node_goes_and_comes_back_without_duplicate_or_gap(
    nodes: list[Broker], cluster: ClientSettings, node: int, how: signal.Signals
) -> None:
    """The first node is the controller, without which no leader is elected."""
    topic, account = new_topic(), Account()
    sink = KafkaSink(cluster, account, partitions=3)
    await sink.start([topic])
    load = Load(sink, topic)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.run)
        await eventually(lambda: account.settled > 3 * 1000)
        await anyio.to_thread.run_sync(nodes[node].stop, how)
        await anyio.sleep(4)
        await anyio.to_thread.run_sync(nodes[node].start)
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    # The last round may have reached only some of the partitions.
    await sink.flush(60)
    assert not account.causes
    assert not account.doubts
    found = await numbers_in(cluster, topic)
    assert sum(map(len, found.values())) == account.settled
    for numbers in found.values():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= load.sent
    await sink.close(5)


async def test_a_partition_without_a_leader_waits_alone(
    nodes: list[Broker], cluster: ClientSettings
) -> None:
    topic, account = new_topic(), Account()
    admin = AIOKafkaAdminClient(bootstrap_servers=list(cluster.addresses))
    await admin.start()
    places = {0: [1], 1: [2], 2: [3]}
    answer = await admin.create_topics(
        [NewTopic(topic, -1, -1, places, {"min.insync.replicas": "1"})]
    )
    assert answer.topic_errors[0][1] == 0, answer
    await admin.close()
    sink = KafkaSink(cluster, account, partitions=3)
    await sink.start([topic])
    await anyio.to_thread.run_sync(nodes[1].stop, signal.SIGKILL)
    await anyio.sleep(2)
    await sink.send(make_batch(topic, 1, 0, 101))
    for n in range(50):
        await sink.send(make_batch(topic, 2 * (n % 2), 1000 + 7 * n, 7))
        await eventually(lambda: account.settled == 7 * (n + 1))  # noqa: B023
    await anyio.to_thread.run_sync(nodes[1].start)
    await eventually(lambda: account.settled == 350 + 101)
    assert not account.causes
    assert not account.doubts
    assert sorted(len(each) for each in (await numbers_in(cluster, topic)).values()) == [
        101, 175, 175,
    ]  # fmt: skip
    await sink.close(5)

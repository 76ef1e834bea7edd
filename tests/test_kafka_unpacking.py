"""A small batch in a topic that unpacks to more than the memory of a host."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from support.memory import measured
from support.outcomes import Account, new_topic

from flowstream import compression
from flowstream.kafka.sink import KafkaSink
from flowstream.kafka.unpacking import bounded_unpacking

if TYPE_CHECKING:
    from pathlib import Path

    from broker import Broker

LARGE = 600 << 20
# Publishes one record of zeros in a compressed batch.
PUBLISH = """
import sys
from confluent_kafka import Producer
address, topic, codec, octets = sys.argv[1:]
properties = {"bootstrap.servers": address, "compression.type": codec}
producer = Producer(properties | {"message.max.bytes": 1_000_000_000})
errors = []
producer.produce(topic, bytes(int(octets)), on_delivery=lambda error, _: errors.append(error))
producer.flush(50)
sys.exit(errors != [None])
"""


async def create(broker: Broker, *topics: str) -> None:
    """Create topics with one partition each."""
    sink = KafkaSink(broker.cluster, Account(), partitions=1)
    await sink.start(topics)
    await sink.close(5)


def publish(broker: Broker, topic: str, codec: str, octets: int) -> None:
    """Publish it, in a process of its own: its memory is not that of the tests."""
    command = [sys.executable, "-c", PUBLISH, broker.address, topic, codec, str(octets)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
@pytest.mark.parametrize(
    "command", ["audit {url} --topic-prefix {prefix}", "cat {url} --topic {topic}"]
)
def test_memory_is_bounded(broker: Broker, tmp_path: Path, command: str, codec: str) -> None:
    prefix = new_topic()
    topic = f"{prefix}.counters"
    asyncio.run(create(broker, f"{prefix}.flows", f"{prefix}.new_flows", topic))
    publish(broker, topic, codec, LARGE)
    arguments = command.format(url=broker.url, prefix=prefix, topic=topic).split()
    status, text, peak = measured(arguments, tmp_path / "output")
    assert status == 1, text
    assert "Traceback" not in text
    assert f"topic {topic}, partition 0, offset 0" in text
    assert f"a batch compressed with {codec} that cannot be unpacked within 256 MiB" in text
    assert 0 < peak < LARGE


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_other_users_of_aiokafka_in_this_process_are_not_bounded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED", 1_000)
    topic = new_topic()
    asyncio.run(create(broker, topic))
    publish(broker, topic, codec, 1_009)
    place = TopicPartition(topic, 0)

    async def read() -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
        async with asyncio.timeout(30), consumer:
            consumer.assign([place])
            with bounded_unpacking(), pytest.raises(ValueError, match="within 0 MiB"):
                await consumer.getone(place)
            await consumer.seek_to_beginning(place)
            return len((await consumer.getone(place)).value)

    assert asyncio.run(read()) == 1_009


@pytest.mark.parametrize(
    ("version", "codec", "number"),
    # aiokafka reads no lz4 of version 0: its frames had another checksum.
    [(0, "gzip", 1), (0, "snappy", 2), (1, "gzip", 1), (1, "snappy", 2), (1, "lz4", 3)],
)
def test_batches_of_former_versions_are_bounded(
    monkeypatch: pytest.MonkeyPatch, version: int, codec: str, number: int
) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED", 1_000)
    builder = LegacyRecordBatchBuilder(version, number, 1 << 20)
    builder.append(0, None, None, bytes(1_009))
    batch = MemoryRecords(bytes(builder.build())).next_batch()
    with bounded_unpacking(), pytest.raises(ValueError, match=f"{codec} that cannot be unpacked"):
        list(batch)

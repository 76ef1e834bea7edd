"""Readers of others: kcat, Kafka's console consumer and librdkafka's own client."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import confluent_kafka
import pytest
from broker import Broker, java
from packets.captures import TRACES
from support.agent import FLOWSTREAM

from flowstream.encode import counters_key
from flowstream.records import RecordType, decode
from flowstream.source import open_source
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
BYTES = "org.apache.kafka.common.serialization.BytesDeserializer"
RECORD_TYPES = {
    Stream.FLOWS: RecordType.FLOW,
    Stream.NEW_FLOWS: RecordType.NEW_FLOW,
    Stream.COUNTERS: RecordType.COUNTERS,
}
TIMEOUT_S = 60


class Read(NamedTuple):
    """A record of a topic as a client returns it; sorted by its place."""

    partition: int
    offset: int
    key: bytes
    value: bytes


class Published(NamedTuple):
    """The same captures in a topic's recording and in a broker: they always give the same."""

    recording: Path
    prefix: str

    def expected(self, stream: Stream) -> list[Read]:
        """Records of the recording, which no Kafka client has touched."""
        topic = f"{self.prefix}.{stream}"

        async def read() -> list[Read]:
            source = open_source(f"file:{self.recording}", [topic])
            return [
                Read(each.partition, each.offset, each.key, each.value)
                async for batch in source.batches()
                for each in batch
            ]

        return sorted(asyncio.run(read()))


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Keeps the records of old captures: a broker's limit counts from the records' times."""
    with Broker({"log.retention.ms": "-1"}) as own:
        yield own


@pytest.fixture(scope="module", params=["json", "msgpack"])
def published(request, broker, tmp_path_factory) -> Published:
    recording = tmp_path_factory.mktemp("clients") / "recording"
    prefix = f"clients-{request.param}"
    captures = (TRACES / "http_09.pcap", TRACES / "mdns.pcap", TRACES / "icmp_dot1q.pcap")
    for sink in (f"file:{recording}", broker.url):
        options = ("--format", request.param, "--topic-prefix", prefix, "--interval", "0.1")
        command = [*FLOWSTREAM, "pcap", *captures, "--sink", sink, *options]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    return Published(recording, prefix)


def by_kcat(broker: Broker, topic: str, count: int) -> list[Read]:
    """Read to the end of the topic. Values may hold any octet: their lengths come first."""
    layout = r"%p %o %K %S %k%s"
    command = ["kcat", "-C", "-q", "-e", "-b", broker.address, "-t", topic, "-f", layout]
    done = subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    rest, found = done.stdout, []
    while rest:
        *numbers, rest = rest.split(b" ", 4)
        partition, offset, key, value = map(int, numbers)
        found.append(Read(partition, offset, rest[:key], rest[key : key + value]))
        rest = rest[key + value :]
    return found


def by_console_consumer(broker: Broker, topic: str, count: int) -> list[Read]:
    """Read ``count`` records; octets that are not printable are escaped."""
    formatter = {
        "print.partition": "true",
        "print.offset": "true",
        "print.key": "true",
        "key.deserializer": BYTES,
        "value.deserializer": BYTES,
    }
    command = java(
        *(CONSOLE_CONSUMER, "--bootstrap-server", broker.address, "--topic", topic),
        *("--from-beginning", "--max-messages", str(count), "--timeout-ms", "30000"),
        *(word for pair in formatter.items() for word in ("--property", "=".join(pair))),
    )
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = []
    for line in done.stdout.splitlines():
        partition, offset, key, value = line.split("\t")
        found.append(
            Read(
                int(partition.removeprefix("Partition:")),
                int(offset.removeprefix("Offset:")),
                unescaped(key),
                unescaped(value),
            )
        )
    return found


def unescaped(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def by_librdkafka(broker: Broker, topic: str, count: int) -> list[Read]:
    """Every partition to its end."""
    settings = {
        "bootstrap.servers": broker.address,
        "group.id": f"librdkafka-{topic}",
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }
    consumer = confluent_kafka.Consumer(settings)
    found, open_partitions = [], set(consumer.list_topics(topic).topics[topic].partitions)
    consumer.subscribe([topic])
    try:
        while open_partitions:
            message = consumer.poll(TIMEOUT_S)
            assert message, "no message and no end of a partition"
            if message.error():
                assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF
                open_partitions.discard(message.partition())
                continue
            place = message.partition(), message.offset()
            found.append(Read(*place, message.key(), message.value()))
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("client", [by_kcat, by_console_consumer, by_librdkafka])
def test_reads_a_topic(published, broker, client, stream):
    """Same number, places, keys and octets as recorded; every value is a record."""
    expected = published.expected(stream)
    assert len(expected) > 5 or stream == Stream.COUNTERS
    read = client(broker, f"{published.prefix}.{stream}", len(expected))
    assert sorted(read) == expected
    records = [decode(each.value) for each in read]
    assert {record.record_type for record in records} == {RECORD_TYPES[stream]}
    if stream == Stream.COUNTERS:
        assert [each.key for each in read] == [counters_key(record) for record in records]
    else:
        assert {len(each.key) for each in read} == {8}

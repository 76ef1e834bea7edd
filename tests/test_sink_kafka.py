"""The Kafka sink with a healthy broker: topics, contents, sizes, limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog.testing
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from broker.acls import ANYBODY, AUTHORIZING, allow, deny
from support.outcomes import TIMESTAMP_MS, Account, eventually, make_batch, new_topic, number

from flowstream.errors import SinkError
from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.sink import open_sink
from flowstream.source import open_source
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker

    from flowstream.messages import Message, MessageBatch

pytestmark = pytest.mark.anyio


async def read(url: str, topic: str) -> list[Message]:
    return [m async for batch in open_source(url, [topic]).batches() for m in batch]


async def create_topic(broker: Broker, topic: str, partitions: int, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        settings = {name.replace("_", "."): value for name, value in configs.items()}
        answer = await admin.create_topics(
            [NewTopic(topic, partitions, 1, topic_configs=settings)]
        )
        assert answer.topic_errors[0][1] == 0
    finally:
        await admin.close()


async def test_keeps_every_record_in_its_partition_and_order(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    sink = open_sink(broker.url, account, partitions=3, record_format="msgpack")
    await sink.start([topic])
    sent: dict[int, list[int]] = {0: [], 1: [], 2: []}
    first = 0
    # 7919 records of 203 bytes do not fit into one Kafka batch.
    for partition, count in [(0, 1009), (1, 1), (2, 7919), (0, 7), (1, 4001), (2, 0), (0, 13)]:
        await sink.send(make_batch(topic, partition, first, count))
        sent[partition] += range(first, first + count)
        first += count
    await sink.flush(60)
    assert account.settled == len(account.acknowledged_values) == first
    messages = await read(broker.url, topic)
    for partition, numbers in sent.items():
        got = [m for m in messages if m.partition == partition]
        assert [number(m.value) for m in got] == numbers
        assert [m.key for m in got] == [n.to_bytes(8, "big") for n in numbers]
        assert [m.offset for m in got] == list(range(len(numbers)))
        assert {m.timestamp_ms for m in got} == {TIMESTAMP_MS}
    assert sorted(account.acknowledged_values) == sorted(m.value for m in messages)
    await sink.close(60)
    await sink.close(60)


async def test_creates_missing_topics_and_leaves_others_unchanged(broker: Broker) -> None:
    missing, existing = new_topic(), new_topic()
    await create_topic(broker, existing, 2)
    sink = open_sink(broker.url, Account(), partitions=5, record_format="json")
    await sink.start([missing, existing])
    assert (sink.partitions(missing), sink.partitions(existing)) == (5, 2)
    await sink.close(5)


async def test_topic_that_cannot_be_created_is_named(broker: Broker) -> None:
    sink = open_sink(broker.url, Account(), partitions=1, record_format="json")
    with pytest.raises(SinkError, match=r"topic no/such cannot be created.*by hand"):
        await sink.start(["no/such"])
    await sink.close(1)


async def test_refused_authorization_is_an_error_at_the_start(
    broker_factory: Callable[..., Broker],
) -> None:
    broker = broker_factory(**AUTHORIZING)
    deny(broker, ANYBODY, "denied", "CREATE", "WRITE")
    sink = open_sink(broker.url, Account(), partitions=1, record_format="json")
    with pytest.raises(SinkError, match=r"topic denied.*not authorised; allow it"):
        await sink.start(["denied"])


async def test_records_of_a_topic_that_must_not_be_written_fail_at_once(
    broker_factory: Callable[..., Broker],
) -> None:
    """Nothing is in doubt: the broker answered that it wrote nothing. Others are published."""
    broker, account = broker_factory(**AUTHORIZING), Account()
    sink = KafkaSink(broker.cluster, account, partitions=2)
    await sink.start(["t", "other"])
    await sink.send(make_batch("t", 0, 0, 101))
    await sink.flush(60)
    allow(broker, ANYBODY, "t", "ALL")
    deny(broker, ANYBODY, "t", "WRITE")
    with structlog.testing.capture_logs() as logs:
        await sink.send(make_batch("t", 0, 101, 103))
        await sink.send(make_batch("other", 0, 1000, 107))
        await eventually(lambda: account.settled == 101 + 103 + 107)
        assert account.causes == {"not_authorised": 103}
        # Later ones are not even sent.
        await sink.send(make_batch("t", 1, 204, 109))
        await eventually(lambda: account.causes == {"not_authorised": 212})
        await sink.send(make_batch("other", 0, 1107, 1))
        await sink.flush(60)
        await eventually(lambda: logs)
    assert not account.doubts
    assert len(await read(broker.url, "other")) == 108
    assert [number(m.value) for m in await read(broker.url, "t")] == list(range(101))
    assert {each["event"] for each in logs} == {"kafka_records_failed"}
    assert all("right to write" in each["remedy"] for each in logs)
    await sink.close(5)


async def test_batch_that_the_broker_finds_too_large_is_split(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    await create_topic(broker, topic, 2, max_message_bytes="50000")
    sink = open_sink(broker.url, account, partitions=1, record_format="json")
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 2003))
    await sink.send(make_batch(topic, 1, 2003, 3))
    await sink.flush(60)
    assert not account.causes
    messages = await read(broker.url, topic)
    # Each once: the healthy partition was allowed to finish.
    assert [number(m.value) for m in messages if m.partition == 0] == list(range(2003))
    assert [number(m.value) for m in messages if m.partition == 1] == [2003, 2004, 2005]
    await sink.close(5)


async def test_single_record_too_large_fails_alone(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    await create_topic(broker, topic, 1, max_message_bytes="50000")
    sink = open_sink(broker.url, account, partitions=1, record_format="json")
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 101))
    await sink.send(make_batch(topic, 0, 101, 1, size=60_000))
    await sink.send(make_batch(topic, 0, 102, 101))
    await sink.flush(60)
    assert account.causes == {"message_too_large": 1}
    assert [number(v) for v in account.failed_values] == [101]
    numbers = [number(m.value) for m in await read(broker.url, topic)]
    assert numbers == [n for n in range(203) if n != 101]
    await sink.close(5)


async def test_too_large_records_delay_neither_others_nor_the_broker(
    broker: Broker,
) -> None:
    topic, account = new_topic(), Account()
    await create_topic(broker, topic, 2, max_message_bytes="400")
    sink = open_sink(broker.url, account, partitions=1, record_format="json")
    await sink.start([topic])
    with structlog.testing.capture_logs() as logs:
        await sink.send(make_batch(topic, 0, 0, 499, size=350))
        await sink.send(make_batch(topic, 0, 499, 211, size=50))
        await sink.send(make_batch(topic, 1, 710, 101, size=50))
        await sink.close(60)
    assert account.causes == {"message_too_large": 499}
    assert sorted(map(number, account.failed_values)) == list(range(499))
    messages = await read(broker.url, topic)
    assert [number(m.value) for m in messages if m.partition == 0] == list(range(499, 710))
    assert [number(m.value) for m in messages if m.partition == 1] == list(range(710, 811))
    # One producer did it all.
    assert {entry["event"] for entry in logs} == {"kafka_records_failed"}


async def test_record_larger_than_a_batch_but_within_the_brokers_limit(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    sink = open_sink(broker.url, account, partitions=1, record_format="json")
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 3, size=600_000))
    await sink.flush(60)
    assert len(account.acknowledged_values) == 3
    await sink.close(5)


async def test_send_waits_for_space_and_a_cancelled_send_leaves_nothing(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    limits = Limits(in_flight_bytes=20_000)
    sink = KafkaSink(broker.cluster, account, partitions=1, limits=limits)
    await sink.start([topic])
    # Both larger than the space: the second waits for the first one's acknowledgement.
    await sink.send(make_batch(topic, 0, 0, 101))
    assert account.settled == 0
    with anyio.move_on_after(0):
        await sink.send(make_batch(topic, 0, 1000, 101))
    await sink.send(make_batch(topic, 0, 101, 101))
    assert len(account.acknowledged_values) == 101
    await sink.flush(60)
    numbers = [number(m.value) for m in await read(broker.url, topic)]
    assert numbers == list(range(202))
    await sink.close(5)


async def test_after_close_everything_fails_by_shutdown(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    limits = Limits(in_flight_bytes=20_000)
    sink = KafkaSink(broker.cluster, account, partitions=1, limits=limits)
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, 101))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.send, make_batch(topic, 0, 101, 101))
        await anyio.lowlevel.checkpoint()
        await sink.close(5)
    await sink.send(make_batch(topic, 0, 202, 101))
    assert len(account.acknowledged_values) == 101
    assert account.causes == {"shutdown": 202}


async def test_no_broker_at_the_start_names_address_and_reason() -> None:
    limits = Limits(connect_timeout=3)
    sink = KafkaSink(
        ClientSettings(("127.0.0.1:9", "no-such-host.invalid:9092")),
        Account(),
        partitions=1,
        limits=limits,
    )
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:9 .*refused.*host\.invalid:9092 .*resolve"):
        await sink.start(["t"])
    await sink.close(1)


async def test_listener_that_is_no_broker_is_named() -> None:
    async def babble(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, babble)
        sink = KafkaSink(
            ClientSettings((f"127.0.0.1:{port}",)),
            Account(),
            partitions=1,
            limits=Limits(connect_timeout=5),
        )
        with pytest.raises(SinkError, match="does not answer as a Kafka broker"):
            await sink.start(["t"])
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def delete_topic(broker: Broker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()


async def test_deleted_topic_is_created_again(broker: Broker) -> None:
    topic, other, account = new_topic(), new_topic(), Account()
    sink = KafkaSink(broker.cluster, account, partitions=1)
    await sink.start([topic, other])
    await sink.send(make_batch(topic, 0, 0, 101))
    await sink.flush(60)
    await delete_topic(broker, topic)
    await sink.send(make_batch(topic, 0, 101, 101))
    # The broker answers all the time.
    others = 0
    while account.settled < 202 + others:
        await sink.send(make_batch(other, 0, 1000 + others, 1))
        others += 1
        await eventually(lambda: account.settled >= 101 + others)  # noqa: B023
        await anyio.sleep(0.02)
    assert not account.causes
    assert [number(m.value) for m in await read(broker.url, topic)] == list(range(101, 202))
    assert len(await read(broker.url, other)) == others
    await sink.close(5)


async def test_a_topic_that_cannot_be_created_does_not_stop_the_others(broker: Broker) -> None:
    missing, existing, account = new_topic(), new_topic(), Account()
    await create_topic(broker, existing, 1)
    settings = {"retention.ms": "forever"}
    sink = KafkaSink(broker.cluster, account, partitions=1, topic_settings=settings)
    with structlog.testing.capture_logs() as logs:
        await sink.start([missing, existing], wait=False)
        await sink.send(make_batch(missing, 0, 0, 101))
        await sink.send(make_batch(existing, 0, 1000, 103))
        await eventually(lambda: account.settled == 204)
        assert account.causes == {"unknown_topic": 101}
        # It is looked for now and then.
        await create_topic(broker, missing, 1)
        sent = 101
        while account.settled == 103 + sent and len(account.acknowledged_values) == 103:
            await sink.send(make_batch(missing, 0, sent, 1))
            sent += 1
            await eventually(lambda: account.settled == 103 + sent)  # noqa: B023
    assert not account.doubts
    failed = [each for each in logs if each["event"] == "kafka_records_failed"]
    assert f"topic {missing}: InvalidConfigurationError" in failed[0]["reason"]
    assert failed[0]["remedy"] == "create the topic by hand"
    assert [number(m.value) for m in await read(broker.url, missing)] == [sent - 1]
    await sink.close(5)


async def recreate_topic(broker: Broker, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        with anyio.fail_after(60):
            error = True
            while error:
                answer = await admin.create_topics([NewTopic(topic, partitions, 1)])
                error = answer.topic_errors[0][1]
    finally:
        await admin.close()


async def test_topic_recreated_with_fewer_partitions_gets_every_record_once(
    broker: Broker,
) -> None:
    topic, account = new_topic(), Account()
    sink = KafkaSink(broker.cluster, account, partitions=6, limits=Limits())
    await sink.start([topic])
    for partition in range(6):
        await sink.send(make_batch(topic, partition, partition, 1))
    await sink.flush(60)
    await recreate_topic(broker, topic, 2)
    with structlog.testing.capture_logs() as logs:
        for first in (6, 613):
            for partition in range(6):
                await sink.send(make_batch(topic, partition, first + 101 * partition, 101))
        await eventually(lambda: account.settled == 6 + 12 * 101)
    assert not account.causes
    assert sink.partitions(topic) == 2
    messages = await read(broker.url, topic)
    assert sorted(number(m.value) for m in messages) == [*range(6, 612), *range(613, 1219)]
    for partition in range(6):
        former = {first + 101 * partition + n for first in (6, 613) for n in range(101)}
        now_in = [m for m in messages if number(m.value) in former]
        assert {m.partition for m in now_in} == {partition % 2}
        assert [number(m.value) for m in now_in] == sorted(former)
    assert sum(entry["event"] == "kafka_records_moved" for entry in logs) == 1
    await sink.close(5)


async def test_added_partitions_are_used(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    limits = Limits(metadata_age=0.2)
    sink = KafkaSink(broker.cluster, account, partitions=2, limits=limits)
    await sink.start([topic])
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    await admin.create_partitions({topic: NewPartitions(5)})
    await admin.close()
    await eventually(lambda: sink.partitions(topic) == 5)
    await sink.send(make_batch(topic, 4, 0, 101))
    await sink.flush(60)
    assert not account.causes
    assert {m.partition for m in await read(broker.url, topic)} == {4}
    await sink.close(5)


async def test_bug_in_the_sink_lets_other_partitions_finish(broker: Broker) -> None:
    topic, account = new_topic(), Account()
    limits = Limits(delivery_timeout=8)
    sink = KafkaSink(broker.cluster, account, partitions=3, limits=limits)
    await sink.start([topic])
    text = replace(make_batch(topic, 1, 0, 1), values=["not octets"])  # type: ignore[list-item]
    for batch in (make_batch(topic, 0, 1, 1009), text, make_batch(topic, 2, 1010, 1009)):
        await sink.send(batch)
    await eventually(lambda: account.settled == 2019)
    assert account.causes == {"delivery_timeout": 1}
    numbers = [number(m.value) for m in await read(broker.url, topic)]
    assert sorted(numbers) == list(range(1, 2019))
    await sink.close(5)


HOUR_MS = 3_600_000


def dated(batch: MessageBatch, *times: int) -> MessageBatch:
    """The batch with these message times, repeated as often as is needed."""
    return replace(batch, timestamps_ms=[times[n % len(times)] for n in range(len(batch))])


async def test_records_of_a_clock_that_is_wrong_are_lost_alone_and_counters_are_published(
    broker: Broker,
) -> None:
    flows, counters, account = new_topic(), new_topic(), Account()
    # Longer than the test may last: nothing waits for a timeout.
    limits = Limits(request_timeout=3_600, stuck_timeout=3_600, delivery_timeout=3_600)
    sink = KafkaSink(broker.cluster, account, partitions=2, limits=limits)
    await sink.start([flows, counters])
    now = time.time_ns() // 1_000_000
    ahead = now + 2 * HOUR_MS
    with structlog.testing.capture_logs() as logs:
        for first in range(0, 5_000, 500):
            await sink.send(dated(make_batch(flows, 0, first, 500), ahead + first))
        await sink.send(dated(make_batch(flows, 1, 5_000, 101), now))
        final = replace(make_batch(counters, 0, 6_000, 1), stream=Stream.COUNTERS)
        await sink.send(dated(final, ahead))
        await sink.close(60)
    assert account.causes == {"invalid_timestamp": 5_000}
    assert [number(m.value) for m in await read(broker.url, flows)] == list(range(5_000, 5_101))
    (message,) = await read(broker.url, counters)
    assert (number(message.value), message.timestamp_ms) == (6_000, -1)
    # One line, unless the first of them were given up long before the others.
    assert {each["event"] for each in logs} == {"kafka_records_failed"}
    assert sum(each["records"] for each in logs) == 5_000
    assert all("clock" in each["remedy"] for each in logs)


@pytest.mark.parametrize("place", [0, 1_009, 2_002])
async def test_one_record_of_another_century_is_lost_alone(broker: Broker, place: int) -> None:
    topic, account = new_topic(), Account()
    sink = KafkaSink(broker.cluster, account, partitions=1)
    await sink.start([topic])
    now = time.time_ns() // 1_000_000
    batch = dated(make_batch(topic, 0, 0, 2_003), *range(now - 2_003, now))
    batch.timestamps_ms[place] = 4_300_000_000_000
    await sink.send(batch)
    await sink.send(dated(make_batch(topic, 0, 2_003, 101), now))
    await sink.close(60)
    assert account.causes == {"invalid_timestamp": 1}
    assert [number(v) for v in account.failed_values] == [place]
    numbers = [number(m.value) for m in await read(broker.url, topic)]
    assert numbers == [n for n in range(2_104) if n != place]


async def test_headers_count_as_memory(broker: Broker) -> None:
    """Copied messages may have large ones."""
    topic, account = new_topic(), Account()
    sink = KafkaSink(broker.cluster, account, partitions=1, limits=Limits(in_flight_bytes=20_000))
    await sink.start([topic])
    headers = (("name", b"x" * 900), ("empty", None))
    batch = replace(make_batch(topic, 0, 0, 11, size=13), headers=[headers] * 11)
    assert batch.octets == 11 * (8 + 13 + 4 + 900 + 5)
    await sink.send(batch)
    second = asyncio.ensure_future(sink.send(replace(batch, headers=[headers] * 11)))
    await asyncio.sleep(0)
    assert not second.done(), "there is no room for both"
    await second
    await sink.close(60)
    assert len(account.acknowledged_values) == 22

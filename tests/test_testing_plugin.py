"""The pytest plugin: the documents' example as it stands, and the double against the real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    UnknownTopicOrPartitionError,
)
from support.copies import Content, content
from support.published import Published, publish
from support.records import encoder_of, flow_records

from flowstream.accounting.identity import Identity
from flowstream.encode import FORMATS, stamp
from flowstream.errors import DecodeError, SinkError, SourceError, UsageError
from flowstream.kafka.admin import partition_counts
from flowstream.messages import Message
from flowstream.records import EndReason, FlowRecord, RecordType, community_id, decode
from flowstream.testing.consumer import ConsumerDouble
from flowstream.testing.factory import FIRST_NS, FlowFactory
from flowstream.testing.recorded import Recording
from flowstream.testing.replayed import BrokerTopic, DoubleTopic

if TYPE_CHECKING:
    from broker import Broker

pytest_plugins = ["pytester"]

DOCUMENT = Path(__file__).parent.parent / "docs" / "testing.md"
EXAMPLE = re.compile(r"`(\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def office(pytester: pytest.Pytester) -> Path:
    """The example's files and a recording beside them."""
    files = dict(EXAMPLE.findall(DOCUMENT.read_text()))
    assert sorted(files) == ["test_top_talkers.py", "top_talkers.py"]
    for name, text in files.items():
        (pytester.path / name).write_text(text)
    recorded = Published()
    # A rate of 1 as agents publish it: the example multiplies by it.
    recorded.values = [
        (topic, value.replace(b'"sampling_rate":0', b'"sampling_rate":1'))
        for topic, value in recorded.values
    ]
    asyncio.run(publish(f"file:{pytester.path}/office", "json", recorded))
    return pytester.path / "office"


@pytest.mark.usefixtures("office")
def test_example_of_the_documents_passes_without_a_broker(pytester: pytest.Pytester) -> None:
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=6)


@pytest.mark.usefixtures("office")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_example_of_the_documents_passes_with_a_broker(
    pytester: pytest.Pytester, broker: Broker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    options = ["--flowstream-broker", broker.url]
    if how == "variable":
        options = []
        monkeypatch.setenv("FLOWSTREAM_BROKER", broker.url)
    pytester.runpytest_subprocess("-W", "error", *options).assert_outcomes(passed=6)


@pytest.mark.usefixtures("office")
def test_example_fails_when_the_consumer_is_wrong(pytester: pytest.Pytester) -> None:
    service = pytester.path / "top_talkers.py"
    service.write_text(service.read_text().replace("flow.bytes", "flow.packets"))
    pytester.runpytest_subprocess().assert_outcomes(failed=6)


def test_plugin_imports_nothing_before_a_fixture_is_used() -> None:
    code = "import sys, flowstream.testing.plugin; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "flowstream.testing.plugin" in loaded
    assert not loaded & {"numpy", "aiokafka", "msgspec", "rich", "structlog", "flowstream.records"}


def test_recording_is_loaded_from_beside_the_test(office: Path) -> None:
    loaded = Recording(office)
    assert loaded.topics == [
        "flowstream.counters",
        "flowstream.flows",
        "flowstream.new_flows",
    ]
    flows = loaded.records("flowstream.flows")
    assert len(flows) == len(loaded.messages("flowstream.flows")) == 31
    assert all(isinstance(flow, FlowRecord) for flow in flows)
    assert len(loaded.records()) == 31 + 13 + 2
    with pytest.raises(SourceError, match="no topic none in this recording"):
        loaded.messages("none")
    asyncio.run(publish(f"file:{office}", "json", Broken()))
    with pytest.raises(DecodeError, match=r"topic flowstream.flows, partition 0, offset \d+: not"):
        loaded.records("flowstream.flows")


def test_recording_that_is_not_whole_is_an_error(office: Path) -> None:
    segment = next(path for path in office.glob("flowstream.flows-*/*.log") if path.stat().st_size)
    os.truncate(segment, segment.stat().st_size - 1)
    for read in (Recording(office).messages, Recording(office).records):
        with pytest.raises(SourceError, match="the last batch is cut short"):
            read("flowstream.flows")
    assert Recording(office).messages("flowstream.counters")


class Broken(Published):
    def messages(self) -> list[Message]:
        return [Message("flowstream.flows", 0, 0, 0, b"", b"no record")]


# --- factory -----------------------------------------------------------------------------------


def test_records_count_up_and_follow_what_is_given(flow_factory: FlowFactory) -> None:
    first, second = flow_factory(), flow_factory(src_addr="2001:db8::1", packets=3)
    assert (first.seq, second.seq) == (0, 1)
    assert second.time_flow_start_ns - first.time_flow_start_ns == 1_000_000
    assert (first.etype, second.etype) == (0x0800, 0x86DD)
    assert (second.bytes, second.l2_bytes) == (180, 222)
    assert str(second.source) == "2001:db8::1"
    assert first.end_reason == EndReason.INTERVAL_OVER
    announced = flow_factory(record_type=RecordType.NEW_FLOW)
    assert (announced.seq, announced.end_reason) == (0, 0)
    assert flow_factory(src_mac="02:00:00:00:00:07").source_mac == "02:00:00:00:00:07"
    assert len({flow.src_port for flow in flow_factory.batch(101)}) == 101


def test_record_of_the_defaults_is_within_the_schema(flow_factory: FlowFactory) -> None:
    record = flow_factory()
    assert msgspec.convert(msgspec.to_builtins(record, builtin_types=(bytes,)), FlowRecord)
    assert record.agent_epoch == FIRST_NS


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"proto": 256}, ValueError, "proto: Expected `int` <= 255"),
        ({"packets": -1}, ValueError, "packets: Expected `int` >= 0"),
        ({"src_addr": "10.0.0"}, ValueError, "src_addr: '10.0.0' does not appear"),
        ({"src_mac": b"12345"}, ValueError, "src_mac: Expected `bytes` of length >= 6"),
        ({"if_name": "x" * 16}, ValueError, "if_name: Expected `str` of length <= 15"),
        ({"sport": 1}, TypeError, "FlowRecord has no field 'sport'"),
    ],
)
def test_what_no_field_can_have_is_named(
    flow_factory: FlowFactory, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        flow_factory(**given)


@pytest.mark.parametrize("record_format", FORMATS)
def test_values_are_those_of_the_agent(flow_factory: FlowFactory, record_format: str) -> None:
    flows = [flow_factory(dst_addr="2001:db8::7", vlan_id=7, tcp_flags=0x12), flow_factory()]
    values = flow_factory.values(flows, record_format)
    assert [decode(value) for value in values] == flows
    # The agent's own way from a column of the kernel to a value.
    agents = flow_records(2, **{
        name: [getattr(flow, name) for flow in flows]
        for name in FlowRecord.__struct_fields__
        if name not in ("if_name", "record_type", "schema_version")
        and not isinstance(getattr(flows[0], name), bytes)
    })  # fmt: skip
    for name in ("src_addr", "dst_addr", "src_mac", "dst_mac"):
        agents[name] = [np.frombuffer(getattr(flow, name), np.uint8) for flow in flows]
    identity = Identity(
        FIRST_NS, bytes(range(16)), "test-host", flows[0].sampler_address, {2: "eth0"}
    )
    stamp(agents, identity, 0)
    assert values == encoder_of(record_format, identity).encode(agents)


def test_announcements_carry_no_packets(flow_factory: FlowFactory) -> None:
    announcement = flow_factory(record_type=2, src_addr="2001:db8::1", dst_addr="2001:db8::2")
    assert announcement.is_new_flow
    assert (announcement.packets, announcement.bytes, announcement.l2_bytes) == (0, 0, 0)
    assert (announcement.etype, announcement.src_net, announcement.dst_net) == (0x86DD, 128, 128)
    assert announcement.end_reason == 0


@pytest.mark.parametrize("record_format", ["json", "protobuf", "avro"])
def test_community_ids_are_in_the_values_where_they_are_asked_for(
    flow_factory: FlowFactory, record_format: str
) -> None:
    flow = flow_factory()
    text = community_id(flow).encode()
    (value,) = flow_factory.values([flow], record_format, community_id=True)
    assert text in value
    assert text not in flow_factory.values([flow], record_format)[0]
    assert flow_factory.values([]) == flow_factory.messages([]) == []


def test_both_directions_are_in_one_partition(flow_factory: FlowFactory) -> None:
    there = flow_factory()
    back = flow_factory(
        src_addr=there.dst_addr, dst_addr=there.src_addr, src_port=443, dst_port=there.src_port
    )
    first, second = flow_factory.messages([there, back])
    assert (first.partition, first.key) == (second.partition, second.key)
    assert (first.offset, second.offset) == (0, 1)
    many = flow_factory.messages(flow_factory.batch(101), partition_count=5)
    assert {message.partition for message in many} == set(range(5))


# --- the double and the real -------------------------------------------------------------------

MESSAGES = [
    Message("t", partition, offset, 1_600_000_000_000 + 10 * offset + partition, *rest)
    for partition, offset, *rest in (
        (0, 0, b"k", b"a", (("h", b"1"), ("h", None))),
        (0, 1, None, b"b"),
        (0, 2, b"k", b"", (), True),
        (2, 0, b"k", b"d"),
        (2, 1, b"k", b"e"),
    )
]


@pytest.fixture(params=["double", "broker"])
def topic(request: pytest.FixtureRequest) -> Any:
    if request.param == "double":
        yield DoubleTopic("t", MESSAGES)
        return
    with BrokerTopic(request.getfixturevalue("broker").url, "t", MESSAGES) as real:
        yield real


def rows(records: list[Any]) -> dict[int, list[tuple[int, Content]]]:
    found: dict[int, list[tuple[int, Content]]] = {}
    for r in records:
        row = Content(r.timestamp, r.key, r.value, r.headers)
        found.setdefault(r.partition, []).append((r.offset, row))
    return found


EXPECTED = {
    number: [(m.offset, content(m)) for m in MESSAGES if m.partition == number]
    for number in (0, 2)
}


@pytest.mark.anyio
async def test_iteration_gives_everything_and_ends(topic: Any) -> None:
    async with topic.consumer() as consumer:
        records = [record async for record in consumer]
    assert rows(records) == EXPECTED
    assert {record.topic for record in records} == {topic.topic}
    sizes = {(r.serialized_key_size, r.serialized_value_size) for r in records}
    assert sizes == {(1, 1), (-1, 1), (1, -1)}
    assert {(r.timestamp_type, r.checksum) for r in records} == {(0, None)}


@pytest.mark.anyio
async def test_getmany_seek_position_and_assignment_are_alike(topic: Any) -> None:
    consumer = topic.consumer("t", value_deserializer=lambda value: value and value.decode())
    first = TopicPartition(topic.topic, 0)
    await consumer.start()
    assert first in consumer.assignment()
    seen: list[Any] = []
    while len(seen) < 5:
        for place, records in (await consumer.getmany(timeout_ms=2_000, max_records=2)).items():
            assert len(records) <= 2
            assert {TopicPartition(r.topic, r.partition) for r in records} == {place}
            seen += records
    assert sorted(str(record.value) for record in seen) == ["None", "a", "b", "d", "e"]
    assert await consumer.getmany(timeout_ms=10) == {}
    assert await consumer.position(first) == 3
    assert (await consumer.end_offsets([first]), await consumer.beginning_offsets([first])) == (
        {first: 3},
        {first: 0},
    )
    consumer.seek(first, 1)
    assert (await consumer.getone(first)).offset == 1
    consumer.pause(first)
    assert consumer.paused() == {first}
    assert await consumer.getmany(timeout_ms=10) == {}
    consumer.resume(first)
    await consumer.seek_to_beginning(first)
    assert (await consumer.getone()).offset == 0
    await consumer.seek_to_end()
    assert await consumer.getmany(timeout_ms=10) == {}
    with pytest.raises(IllegalStateError):
        consumer.seek(TopicPartition("other", 0), 0)
    with pytest.raises(ValueError, match="positive"):
        consumer.seek(first, -1)
    with pytest.raises(IllegalStateError):
        consumer.assign([first])
    await consumer.stop()
    await consumer.stop()
    for call in (consumer.getone(), consumer.getmany()):
        with pytest.raises(ConsumerStoppedError):
            await call


@pytest.mark.anyio
async def test_assigned_partition_alone_is_read(topic: Any) -> None:
    consumer = topic.consumer()
    consumer.unsubscribe()
    consumer.assign([TopicPartition(topic.topic, 2)])
    async with consumer:
        assert consumer.assignment() == {TopicPartition(topic.topic, 2)}
        assert rows([record async for record in consumer]) == {2: EXPECTED[2]}


@pytest.mark.anyio
async def test_topic_is_read_from_its_beginning_whatever_is_set(topic: Any) -> None:
    async with topic.consumer(auto_offset_reset="latest", bootstrap_servers="x:1") as consumer:
        assert rows([record async for record in consumer]) == EXPECTED


@pytest.mark.anyio
async def test_topic_that_does_not_exist_is_an_error(topic: Any) -> None:
    consumer = topic.consumer("t", "tt", request_timeout_ms=500)
    with pytest.raises(UnknownTopicOrPartitionError):
        await consumer.start()
    await consumer.stop()


@pytest.mark.anyio
async def test_what_is_no_setting_is_an_error(topic: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        topic.consumer("t", nonsense=1)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["double", "broker"])
async def test_topic_may_be_empty(kind: str, request: pytest.FixtureRequest) -> None:
    with contextlib.ExitStack() as topics:
        topic: Any = DoubleTopic("t", [])
        if kind == "broker":
            url = request.getfixturevalue("broker").url
            topic = topics.enter_context(BrokerTopic(url, "t", []))
        async with topic.consumer() as consumer:
            assert consumer.assignment() == {TopicPartition(topic.topic, 0)}
            assert [record async for record in consumer] == []


@pytest.mark.anyio
async def test_double_refuses_later_what_a_broker_waits_for() -> None:
    async with ConsumerDouble("t", messages=MESSAGES) as consumer:
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic tt"):
            consumer.subscribe(["t", "tt"])
        consumer.unsubscribe()
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic tt"):
            consumer.assign([TopicPartition("tt", 0)])


@pytest.mark.anyio
async def test_with_wait_the_end_is_where_it_is_stopped(topic: Any) -> None:
    consumer = topic.consumer(wait=True)
    await consumer.start()
    records = []
    async with asyncio.TaskGroup() as tasks:
        async for record in consumer:
            records.append(record)
            if len(records) == len(MESSAGES):
                tasks.create_task(consumer.stop())
    assert rows(records) == EXPECTED


@pytest.mark.anyio
async def test_group_gets_its_topic_and_goes_on_where_it_committed(broker: Broker) -> None:
    with BrokerTopic(broker.url, "t", MESSAGES) as topic:
        async with topic.consumer(group_id=topic.topic) as consumer:
            assert rows([record async for record in consumer]) == EXPECTED
            await consumer.commit()
        async with topic.consumer(group_id=topic.topic) as consumer:
            assert [record async for record in consumer] == []


@pytest.mark.anyio
async def test_double_waits_for_what_a_seek_brings_back() -> None:
    place = TopicPartition("t", 2)
    async with ConsumerDouble("t", messages=MESSAGES, wait=True) as consumer:
        assert len(await consumer.getmany()) == 2
        waiting = asyncio.ensure_future(consumer.getone())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        consumer.seek(place, 1)
        assert (await waiting).offset == 1
        await consumer.commit({place: 1})
        assert await consumer.committed(place) == 1
        assert await consumer.committed(TopicPartition("t", 0)) is None


@pytest.mark.anyio
async def test_double_orders_by_time_and_needs_a_start() -> None:
    consumer = ConsumerDouble("t", messages=reversed(MESSAGES[3:]))
    with pytest.raises(ConsumerStoppedError):
        await consumer.getone()
    async with ConsumerDouble("t", messages=MESSAGES) as started:
        order = [(r.partition, r.offset) async for r in started]
    assert order == [(0, 0), (2, 0), (0, 1), (2, 1), (0, 2)]
    assert await started.topics() == {"t"}
    assert started.partitions_for_topic("t") == {0, 2}
    assert started.partitions_for_topic("u") is None


@pytest.mark.anyio
async def test_topic_is_deleted_after_the_test(broker: Broker) -> None:
    with BrokerTopic(broker.url, "t", MESSAGES) as topic:
        assert await partition_counts(broker.cluster, [topic.topic], 10) == {topic.topic: 3}
        assert topic.bootstrap_servers == broker.address
    assert await partition_counts(broker.cluster, [topic.topic], 10) == {topic.topic: 0}


@pytest.mark.anyio
async def test_topic_that_cannot_be_filled_is_deleted(broker: Broker) -> None:
    topic = BrokerTopic(broker.url, "t", [*MESSAGES, Message("t", 0, 0, 0, b"", b"x" * (2 << 20))])
    with pytest.raises(SinkError, match="message_too_large"), topic:
        pass
    assert await partition_counts(broker.cluster, [topic.topic], 10) == {topic.topic: 0}


def test_without_a_broker_other_clients_are_told(replayed_topic: Any) -> None:
    topic = replayed_topic(MESSAGES, "t")
    assert isinstance(topic, DoubleTopic)
    with pytest.raises(UsageError, match="--flowstream-broker"):
        _ = topic.bootstrap_servers

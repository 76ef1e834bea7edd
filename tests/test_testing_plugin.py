"""The pytest plugin: fixtures, factories, topics in a broker and in the process."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import InconsistentGroupProtocolError, UnknownTopicOrPartitionError
from support import kafka_config
from support.published import Published, publish
from support.records import encoder_of, flow_records

import flowstream.testing
from flowstream.accounting import terms
from flowstream.accounting.identity import Identity
from flowstream.audit import Amount as AuditAmount
from flowstream.audit import Audit
from flowstream.encode import FORMATS, stamp
from flowstream.errors import DecodeError, SinkError, SourceError, UsageError
from flowstream.kafka.admin import partition_counts
from flowstream.kafka.client import admin_client
from flowstream.messages import Message
from flowstream.records import (
    Amount,
    EndReason,
    FlowRecord,
    Loss,
    RecordType,
    SpoolCounts,
    community_id,
    decode,
)
from flowstream.testing.fields import FIRST_NS
from flowstream.testing.recorded import Recording
from flowstream.testing.replayed import BrokerTopics, DoubleTopics

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker
    from broker.secure import SecureBroker

    from flowstream.testing import CountersFactory, FlowFactory

pytest_plugins = ["pytester"]

DOCUMENT = Path(__file__).parent.parent / "docs" / "testing.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLE = re.compile(r"`(\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def office(pytester: pytest.Pytester) -> Path:
    """The example's files and a recording beside them."""
    text = DOCUMENT.read_text()
    files = dict(EXAMPLE.findall(text))
    assert sorted(files) == ["scan_detector.py", "test_scan_detector.py"]
    (files["test_factories.py"],) = set(BLOCK.findall(text)) - set(files.values())
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
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=10)


@pytest.mark.usefixtures("office")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_example_of_the_documents_passes_with_a_broker(
    pytester: pytest.Pytester, broker: Broker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    options = ["--flowstream-broker", broker.url]
    if how == "variable":
        options = []
        monkeypatch.setenv("FLOWSTREAM_BROKER", broker.url)
    pytester.runpytest_subprocess("-W", "error", *options).assert_outcomes(passed=10)


@pytest.mark.usefixtures("office")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_example_of_the_documents_passes_with_a_broker_of_tls(
    pytester: pytest.Pytester,
    secure_broker: SecureBroker,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    file = kafka_config.write(pytester.path / "kafka.toml", secure_broker.settings("TLS"))
    options = ["--flowstream-broker", secure_broker.url_of("TLS")]
    if how == "option":
        options += ["--flowstream-kafka-config", str(file)]
    else:
        monkeypatch.setenv("FLOWSTREAM_KAFKA_CONFIG", str(file))
    # aiokafka does not wait for the end of a client's first connection: by TLS that takes an
    # answer of the broker, which may come after the test's loop is closed.
    options += ["-W", "error", "-W", "ignore:unclosed:ResourceWarning"]
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=10)


@pytest.mark.usefixtures("office")
def test_example_fails_when_the_consumer_is_wrong(pytester: pytest.Pytester) -> None:
    service = pytester.path / "scan_detector.py"
    service.write_text(service.read_text().replace("== limit", ">= limit"))
    pytester.runpytest_subprocess().assert_outcomes(failed=5, passed=5)


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
        ({"dst_prot": 1}, TypeError, "no field 'dst_prot'; did you mean dst_port?"),
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


@pytest.mark.parametrize("record_format", FORMATS)
def test_counters_account_for_the_flows(
    flow_factory: FlowFactory, counters_factory: CountersFactory, record_format: str
) -> None:
    flows = [*flow_factory.batch(31, packets=7), *flow_factory.batch(13, record_type=2)]
    first = counters_factory(flows[:11], no_flow={"non_ip": Amount(3, 180)})
    last = counters_factory(
        flows,
        losses={"delivery_timeout": {"records": 2, "packets": 5, "l2_bytes": 370}},
        final=True,
    )
    assert (first.seq, last.seq) == (0, 1)
    assert last.time_unix_ns - first.time_unix_ns == last.counters_period_ns
    assert (first.seen_packets, first.seen_l2_bytes) == (77 + 3, 11 * 518 + 180)
    assert (last.seen_packets, last.seen_l2_bytes) == (217 + 5, 31 * 518 + 370)
    assert {*first.no_flow} == {*terms.NO_FLOW}
    assert {*last.losses} == {*terms.LOSSES}
    assert {*last.in_doubt} == {*terms.IN_DOUBT}
    stages = last.stages
    assert (stages["flows"].acknowledged, stages["new_flows"].acknowledged) == (31, 13)
    values = counters_factory.values([first, last], record_format)
    assert [decode(value) for value in values] == [first, last]
    key = f"{flows[0].host_id.hex()}/{flows[0].agent_epoch}/2/0".encode()
    assert {m.key for m in counters_factory.messages([first, last])} == {key}


def test_audit_of_made_records_finds_no_difference(
    flow_factory: FlowFactory, counters_factory: CountersFactory
) -> None:
    flows = flow_factory.batch(101, packets=range(101))
    announced = flow_factory.batch(17, record_type=2)
    final = counters_factory(
        [*flows, *announced], no_flow={"malformed": Amount(5, 61)}, final=True
    )
    audit = Audit()
    audit.add(flow_factory.messages(flows))
    audit.add(flow_factory.messages(announced, topic="flowstream.new_flows"))
    audit.add(counters_factory.messages([final]))
    result = audit.result()
    assert result.holds
    assert [list(run.problems) for run in result.runs] == [[]]


def test_each_direction_has_its_own_counters(
    flow_factory: FlowFactory, counters_factory: CountersFactory
) -> None:
    ingress = flow_factory.batch(31, packets=7, if_index=5, if_name="wan")
    egress = flow_factory.batch(13, packets=3, if_index=5, if_name="wan", flow_direction=1)
    finals = [counters_factory(flows, final=True) for flows in (ingress, egress)]
    assert [(each.if_index, each.if_name, each.flow_direction) for each in finals] == [
        *((5, "wan", 0), (5, "wan", 1))
    ]
    assert [(each.program_name, each.attach_mode) for each in finals] == [
        *(("xdp_flow", "native"), ("tc_flow", "tcx"))
    ]
    assert [each.seen_packets for each in finals] == [217, 39]
    audit = Audit()
    audit.add(flow_factory.messages([*ingress, *egress]))
    audit.add(counters_factory.messages(finals))
    result = audit.result()
    assert result.holds
    assert [each.label for each in result.runs[0].interfaces] == ["wan ingress", "wan egress"]
    with pytest.raises(ValueError, match=r"^flows: of wan ingress, wan egress; an interface and"):
        counters_factory([*ingress, *egress])
    tcx = counters_factory(ingress, program_name="tc_flow", attach_mode="tcx")
    assert (tcx.flow_direction, tcx.program_name, tcx.attach_mode) == (0, "tc_flow", "tcx")


@pytest.mark.parametrize("record_format", ["json", "protobuf", "avro"])
def test_egress_has_an_outgoing_interface(flow_factory: FlowFactory, record_format: str) -> None:
    flows = [flow_factory(if_index=5, flow_direction=direction) for direction in (0, 1)]
    read = [decode(value) for value in flow_factory.values(flows, record_format)]
    assert read == flows
    if record_format == "json":
        objects = [json.loads(value) for value in flow_factory.values(flows)]
        assert [(each["in_if"], each["out_if"]) for each in objects] == [(5, 0), (0, 5)]


def test_audit_of_made_records_finds_those_that_are_unanswered(
    flow_factory: FlowFactory, counters_factory: CountersFactory
) -> None:
    flows = flow_factory.batch(101, packets=range(101))
    final = counters_factory(
        flows,
        in_doubt={"shutdown": {"records": 2, "packets": 5, "l2_bytes": 370}},
        spool={"records": 3, "packets": 7, "l2_bytes": 518, "octets": 303, "oldest_ns": 1},
        final=True,
    )
    assert (final.stages["flows"].encoded, final.stages["flows"].spooled) == (106, 3)
    audit = Audit()
    audit.add(flow_factory.messages(flows))
    audit.add(counters_factory.messages([final]))
    result = audit.result()
    assert result.holds
    (interface,) = result.runs[0].interfaces
    assert interface.difference == AuditAmount(12, 888)
    assert result.runs[0].topics[0].missing == 5


def test_each_record_of_a_batch_takes_the_next_element(flow_factory: FlowFactory) -> None:
    network = ipaddress.ip_network("192.0.2.0/29")
    flows = flow_factory.batch(3, dst_addr=network.hosts(), dst_port=count(22), bytes=[7, 11, 13])
    assert [str(flow.destination) for flow in flows] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert [flow.dst_port for flow in flows] == [22, 23, 24]
    assert [flow.bytes for flow in flows] == [7, 11, 13]
    with pytest.raises(ValueError, match="packets: 2 values for 3 records"):
        flow_factory.batch(3, packets=[1, 2])


def test_numbers_of_an_amount_that_are_left_out_are_0(counters_factory: CountersFactory) -> None:
    counters = counters_factory(
        no_flow={"non_ip": {"packets": 3}},
        losses={"delivery_timeout": {"packets": 5}},
        spool={"records": 2},
    )
    assert counters.no_flow["non_ip"] == Amount(3, 0)
    assert counters.losses["delivery_timeout"] == Loss(0, 5, 0)
    assert counters.spool == SpoolCounts(2, 0, 0, 0, 0)
    assert counters.seen_packets == 8


@pytest.mark.parametrize("wrong", [5, {"octets": 5}])
def test_an_amount_that_is_none_is_named(counters_factory: CountersFactory, wrong: Any) -> None:
    text = f"losses: io_error: {wrong} is not an amount of records, packets, l2_bytes"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        counters_factory(losses={"io_error": wrong})


# --- topics ------------------------------------------------------------------------------------

MESSAGES = [
    Message(topic, partition, 0, 1_600_000_000_000, b"k", b"a")
    for topic, partition in (("t", 0), ("t", 2), ("u", 1))
]


@pytest.mark.anyio
async def test_topics_are_deleted_after_the_test(broker: Broker) -> None:
    with BrokerTopics(broker.url, MESSAGES, {"empty": 5}) as topics:
        t, u, empty = (topics.names[name] for name in ("t", "u", "empty"))
        counts = {t: 3, u: 2, empty: 5, "t": 0}
        assert await partition_counts(broker.cluster, list(counts), 10) == counts
        assert topics.bootstrap_servers == broker.address
        assert topics.topic == empty
    assert set((await partition_counts(broker.cluster, [t, u, empty], 10)).values()) == {0}


def test_a_broker_that_cannot_be_used_is_explained(secure_broker: SecureBroker) -> None:
    for listener, why in (("TLS", "requires TLS"), ("BARE", "requires SASL")):
        topics = BrokerTopics(secure_broker.url_of(listener), MESSAGES, {})
        with pytest.raises(SinkError, match=f"^kafka://127.0.0.1:[0-9]+: 127.*{why}.*; set "):
            topics.__enter__()


@pytest.mark.anyio
async def test_topics_that_cannot_be_filled_are_deleted(broker: Broker) -> None:
    large = Message("t", 0, 0, 0, b"", os.urandom(2 << 20))
    topics = BrokerTopics(broker.url, [*MESSAGES, large], {})
    with pytest.raises(SinkError, match="message_too_large"), topics:
        pass
    names = [*topics.names.values()]
    assert set((await partition_counts(broker.cluster, names, 10)).values()) == {0}


@pytest.mark.anyio
async def test_no_topic_is_created_in_a_broker_that_would(
    broker_factory: Callable[..., Broker],
) -> None:
    broker = broker_factory(**{"auto.create.topics.enable": "true"})
    with BrokerTopics(broker.url, MESSAGES, {}) as topics:
        async with topics.consumer("t", "u") as consumer:
            assert len([record async for record in consumer]) == 3
            with pytest.raises(UnknownTopicOrPartitionError):
                consumer.subscribe(["t", "flowstream.counters"])
        consumer = topics.consumer("flowstream.counters", "t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.start()
        await consumer.stop()
        async with admin_client(broker.cluster) as admin:
            assert set(await admin.list_topics()) == set(topics.names.values())


@pytest.mark.anyio
async def test_topics_of_two_tests_do_not_meet(broker: Broker) -> None:
    with (
        BrokerTopics(broker.url, MESSAGES, {}) as first,
        BrokerTopics(broker.url, MESSAGES[:1], {}) as second,
    ):
        for topics, expected in ((first, 2), (second, 1)):
            async with topics.consumer("t", group_id="g") as consumer:
                assert len([record async for record in consumer]) == expected


@pytest.mark.anyio
async def test_the_double_orders_by_time() -> None:
    later = [m._replace(timestamp_ms=m.timestamp_ms + n) for n, m in enumerate(MESSAGES)]
    async with DoubleTopics(reversed(later), {}).consumer("t", "u") as consumer:
        assert [(r.topic, r.partition) async for r in consumer] == [("t", 0), ("t", 2), ("u", 1)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"group_instance_id": "a"}, "group_instance_id"),
        (
            {"partition_assignment_strategy": [StickyPartitionAssignor]},
            "partition_assignment_strategy StickyPartitionAssignor",
        ),
    ],
)
async def test_the_double_refuses_what_it_cannot_do(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(NotImplementedError, match=f"has no {text}: run this test with a broker"):
        DoubleTopics([], {"t": 1}).consumer("t", **setting)


@pytest.mark.anyio
async def test_members_of_the_double_need_a_common_assignor() -> None:
    topics = DoubleTopics(MESSAGES, {})
    strategy = {"partition_assignment_strategy": [RangePartitionAssignor]}
    async with topics.consumer("t", group_id="g"):
        other = topics.consumer("t", group_id="g", **strategy)
        with pytest.raises(InconsistentGroupProtocolError):
            await other.start()
        await other.stop()


def test_the_double_forgets_members_whose_loop_is_closed() -> None:
    topics = DoubleTopics(MESSAGES, {})

    async def start_only() -> None:
        await topics.consumer("t", group_id="g").start()

    async def assigned() -> int:
        async with topics.consumer("t", group_id="g") as consumer:
            return len(consumer.assignment())

    asyncio.run(start_only())
    assert asyncio.run(assigned()) == 3


def test_without_a_broker_other_clients_are_told(replayed_topic: Any) -> None:
    topic = replayed_topic(MESSAGES, "v")
    assert isinstance(topic, DoubleTopics)
    assert topic.names == {"v": "v"}
    assert [(m.topic, m.partition) for m in topic.messages] == [("v", 0), ("v", 2), ("v", 1)]
    with pytest.raises(UsageError, match="--flowstream-broker"):
        _ = topic.bootstrap_servers


# --- scopes and types --------------------------------------------------------------------------

SCOPED = """
import asyncio
from pathlib import Path
import pytest
from flowstream.testing import Fixtures, Recording

@pytest.fixture(scope="module")
def topics(flowstream_module: Fixtures):
    return flowstream_module.replayed_topics("office")

def read(topics):
    async def run():
        async with topics.consumer("flowstream.flows", group_id="g") as consumer:
            return len([record async for record in consumer])
    return asyncio.run(run())

def test_first(topics):
    assert [name.split(".")[1] for name in topics.names] == ["counters", "flows", "new_flows"]
    assert read(topics) == 31

def test_second(topics, flow_factory, flowstream_module, flowstream_session):
    assert read(topics) == 0
    assert flow_factory().seq == 0
    assert (flowstream_module.flow_factory().seq, flowstream_session.flow_factory().seq) == (0, 0)

def test_third(flow_factory, flowstream_module, flowstream_session, recording):
    assert flow_factory().seq == 0
    assert (flowstream_module.flow_factory().seq, flowstream_session.flow_factory().seq) == (1, 1)
    assert flowstream_session.recording("office").path == recording("office").path
    assert isinstance(recording("office"), Recording)
"""


@pytest.mark.usefixtures("office")
@pytest.mark.parametrize("kind", ["double", "broker"])
def test_fixtures_of_a_module_and_a_session_last_as_long(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, kind: str
) -> None:
    pytester.makepyfile(test_scoped=SCOPED)
    broker = request.getfixturevalue("broker") if kind == "broker" else None
    options = ["--flowstream-broker", broker.url] if broker else []
    done = pytester.runpytest_subprocess("-W", "error", "test_scoped.py", *options)
    done.assert_outcomes(passed=3)


@pytest.mark.parametrize("name", flowstream.testing.__all__)
def test_exported_types_are_documented(name: str) -> None:
    assert getattr(flowstream.testing, name).__doc__


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flowstream.testing.nonsense

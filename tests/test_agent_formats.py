"""Records of the agent in every format and under other names, read without its decoder."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, delivered, on, records_of
from test_binary_formats import from_avro, message_class, unsized

from flowstream import schemas
from flowstream.encode.community_id import LENGTH
from flowstream.host.privileges import find_user
from flowstream.records import community_id
from flowstream.source import open_source
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

PACKETS = 20_011
FLOWS = 1_009


def published(wire, url: str, *options: str) -> int:
    """Run the agent over some traffic; return the number of packets that its program saw."""
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", url, "--interval", 1, *options) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    return arrived


def values_of(url: str, stream: Stream) -> list[bytes]:
    async def read() -> list[bytes]:
        source = open_source(url, [f"flowstream.{stream}"])
        return [each.value async for batch in source.batches() for each in batch]

    return asyncio.run(read())


def protobuf_reader(stream: Stream, name: str) -> Callable[[bytes], object]:
    read = message_class(schemas.text("protobuf", stream), f"flowstream.{name}").FromString
    return lambda value: read(unsized(value))


def test_protobuf(wire, tmp_path):
    url = f"file:{tmp_path}/recording"
    arrived = published(wire, url, "--format", "protobuf")
    (interface,) = audited(url)
    assert interface["flows"]["packets"] == arrived
    flow = protobuf_reader(Stream.FLOWS, "FlowMessage")
    flows, announcements = (
        [flow(value) for value in values_of(url, stream)]
        for stream in (Stream.FLOWS, Stream.NEW_FLOWS)
    )
    assert sum(each.packets for each in flows) == arrived
    assert {len(each.src_addr) for each in flows} == {4}
    assert len({each.src_addr for each in announcements}) > 1
    assert {each.packets for each in announcements} == {0}
    read = protobuf_reader(Stream.COUNTERS, "CountersMessage")
    counters = [read(value) for value in values_of(url, Stream.COUNTERS)]
    (final,) = (each for each in counters if each.final)
    assert (final.seen_packets, final.stages["flows"].failed) == (arrived, 0)


@pytest.mark.parametrize(("record_format", "prefix"), [("avro", 5), ("protobuf", 6)])
def test_the_prefix_of_a_registry(wire, registry, tmp_path, record_format, prefix):
    url = f"file:{tmp_path}/recording"
    arrived = published(wire, url, "--format", record_format, "--registry", registry.url)
    values = values_of(url, Stream.FLOWS)
    assert {value[:prefix] for value in values} == {b"\0\0\0\0\1\0"[:prefix]}
    if record_format == "avro":
        packets = [from_avro(value[prefix:], Stream.FLOWS)["packets"] for value in values]
    else:
        flow = message_class(schemas.text("protobuf", Stream.FLOWS), "flowstream.FlowMessage")
        packets = [flow.FromString(value[prefix:]).packets for value in values]
    assert sum(packets) == arrived


def json_id(value: bytes) -> str:
    text: str = json.loads(value)["community_id"]
    return text


def protobuf_id(value: bytes) -> str:
    text: str = protobuf_reader(Stream.FLOWS, "FlowMessage")(value).community_id
    return text


@pytest.mark.parametrize(
    ("record_format", "id_of"), [("json", json_id), ("protobuf", protobuf_id)]
)
def test_community_ids_change_nothing_else(wire, tmp_path, record_format, id_of):
    url = f"file:{tmp_path}/recording"
    arrived = published(wire, url, "--format", record_format, "--community-id")
    (interface,) = audited(url)
    assert interface["flows"]["packets"] == arrived
    records = records_of(url, "flowstream.flows")
    found = list(map(id_of, values_of(url, Stream.FLOWS)))
    assert {len(each) for each in found} == {LENGTH}
    assert found == list(map(community_id, records))
    keys = {(each.src_addr, each.dst_addr, each.src_port, each.dst_port) for each in records}
    assert len(set(found)) == len(keys)


@pytest.mark.parametrize(
    ("names", "packets_of"),
    [
        ("ecs", lambda value: value["source"]["packets"]),
        ("netobserv", lambda value: value["Packets"]),
    ],
)
def test_other_names(wire, tmp_path, names, packets_of):
    url = f"file:{tmp_path}/recording"
    arrived = published(wire, url, "--names", names)
    values = map(json.loads, values_of(url, Stream.FLOWS))
    assert sum(map(packets_of, values)) == arrived
    (final,) = (each for each in records_of(url, "flowstream.counters") if each.final)
    assert final.seen_packets == arrived


def test_no_registry_no_agent(wire, tmp_path):
    """Without its registry the agent attaches nothing and creates nothing."""
    options = ("--format", "avro", "--registry", "http://user:secret@127.0.0.1:1")
    with Agent(*on(wire[1]), "--sink", f"file:{tmp_path}/recording", *options) as agent:
        assert agent.wait() == 1
        (line,) = (each for each in agent.output().splitlines() if not each.startswith("{"))
    assert not (tmp_path / "recording").exists()
    assert line.startswith("flowstream: error: registry http://127.0.0.1:1: cannot be used: ")


def test_a_registry_meets_an_agent_without_privileges(wire, registry, tmp_path):
    """Its answer is read by the agent's user, before anything is attached or created."""
    registry.raw = lambda: [b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"id": -1}']
    options = ("--format", "avro", "--registry", registry.url)
    with Agent(*on(wire[1]), "--sink", f"file:{tmp_path}/recording", *options) as agent:
        assert agent.wait() == 1
        (line,) = (each for each in agent.output().splitlines() if not each.startswith("{"))
    assert not (tmp_path / "recording").exists()
    assert line.startswith(
        f"flowstream: error: registry {registry.url}: subject flowstream.flows-value: "
        "its answer names no schema id: "
    )
    assert registry.users == [find_user("nobody").uid]

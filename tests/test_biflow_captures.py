"""Biflows of real captures, published by the agent: the packets' own ends and sums."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from packets import captures, reference
from support.pcap_runs import in_child

from flowstream.records import Biflow, Evidence, FlowRecord, biflows
from flowstream.records.community import ports
from flowstream.testing.recorded import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator

SYN, ACK = 0x02, 0x10
TCP = 6


class Truth(NamedTuple):
    """What the packets of all captures say of their directions."""

    packets: Counter[tuple[object, ...]]
    """By direction: protocol, source and destination."""
    octets: Counter[tuple[object, ...]]
    first: dict[frozenset[tuple[object, ...]], tuple[object, ...]]
    """By connection the direction of its first packet."""
    opened: set[tuple[object, ...]]
    """Directions that have a packet with SYN and without ACK."""
    answered: set[tuple[object, ...]]
    """Directions that have a packet with both."""


def direction(read: reference.Reading) -> tuple[object, ...]:
    src_port, dst_port, _ = ports(read)  # type: ignore[arg-type]  # the fields that it needs
    return read.proto, read.src_addr, src_port, read.dst_addr, dst_port


def turned(way: tuple[object, ...]) -> tuple[object, ...]:
    proto, src_addr, src_port, dst_addr, dst_port = way
    return proto, dst_addr, dst_port, src_addr, src_port


@pytest.fixture(scope="module")
def truth() -> Truth:
    found = Truth(Counter(), Counter(), {}, set(), set())
    for frame in (frame for capture in captures.CAPTURES for frame in captures.frames(capture)):
        read = reference.read(frame)
        if isinstance(read, str):
            continue
        way = direction(read)
        found.packets[way] += 1
        found.octets[way] += read.bytes
        found.first.setdefault(frozenset((way, turned(way))), way)
        if read.proto == TCP and read.tcp_flags & SYN:
            (found.answered if read.tcp_flags & ACK else found.opened).add(way)
    return found


@pytest.fixture(scope="module", params=["0.1", "3600"])
def recording(request, tmp_path_factory) -> Recording:
    """Of all captures, with many short intervals and with one."""
    to = tmp_path_factory.mktemp("biflows") / "recording"
    options = ["--interval", request.param, "--sink", f"file:{to}"]
    status, said = in_child(["pcap", *map(str, captures.CAPTURES), *options])
    assert status == 0, said
    return Recording(to)


def flow_records(recording: Recording, *topics: str) -> Iterator[FlowRecord]:
    for topic in topics:
        for record in recording.records(f"flowstream.{topic}"):
            assert isinstance(record, FlowRecord)
            yield record


def sent(biflow: Biflow) -> tuple[object, ...]:
    """Direction of the source's packets."""
    return direction(biflow)  # type: ignore[arg-type]  # the fields that it needs


def test_sums(recording: Recording, truth: Truth) -> None:
    packets, octets = Counter(), Counter()
    for biflow in biflows(flow_records(recording, "flows")):
        for way, uniflow in (
            (sent(biflow), biflow.forward),
            (turned(sent(biflow)), biflow.reverse),
        ):
            if uniflow is not None:
                packets[way] += uniflow.packets
                octets[way] += uniflow.bytes
    assert (packets, octets) == (truth.packets, truth.octets)


@pytest.mark.parametrize("topics", [("flows",), ("flows", "new_flows")], ids="+".join)
def test_who_began_tcp(recording: Recording, truth: Truth, topics: tuple[str, ...]) -> None:
    """What is exact is right, and so is the order of SYNs; announcements prove the most."""
    found = {sent(each): each.evidence for each in biflows(flow_records(recording, *topics))}
    known = {way for way, evidence in found.items() if way[0] == TCP and evidence != Evidence.NONE}
    answered = {turned(way) for way in truth.answered}
    assert known <= truth.opened | answered
    assert not known & truth.answered
    # The rest has no SYN, or that of one direction, among other packets of it.
    if "new_flows" in topics:
        assert known == truth.opened | answered
        assert {found[way] for way in known} == {Evidence.SYN}


def test_who_began_elsewhere(recording: Recording, truth: Truth) -> None:
    """By the first packet; of a ping by its type."""
    guessed = [
        each
        for each in biflows(flow_records(recording, "flows"))
        if each.evidence == Evidence.FIRST_PACKET
    ]
    assert len(guessed) > 10
    for each in guessed:
        assert truth.first[frozenset((sent(each), turned(sent(each))))] == sent(each)


def test_both_directions_of_pings(recording: Recording) -> None:
    found = [
        (str(each.source), each.forward.packets, each.reverse.packets)
        for each in biflows(flow_records(recording, "flows"))
        if each.icmp_type == 8 and each.forward and each.reverse
    ]
    assert found == [("192.168.123.2", 5, 4), ("172.16.133.2", 5, 5)]

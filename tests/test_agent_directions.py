"""Both directions of interfaces, observed by ``flowstream run``, each settled by itself."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.agent import Agent, audited, delivered, flowstream, on, records_of
from support.following import Site
from support.net import namespace
from support.traffic import sent, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.records import CountersRecord, FlowRecord

if TYPE_CHECKING:
    from support.net import Interface

RECEIVED, SENT = 5_003, 3_001
FLOWS = 101
FRAME = 83  # octets
BOTH = ("--direction", "both")


class Traffic(NamedTuple):
    """Packets that an interface received and sent."""

    received: int
    sent: int

    def of(self, index: int) -> dict[tuple[int, int], int]:
        """Packets by index and direction."""
        return {(index, INGRESS): self.received, (index, EGRESS): self.sent}


def exchanged(peer: Interface, device: Interface, received: int = RECEIVED) -> Traffic:
    """Let the device receive packets from its peer, and send others."""
    arrived = delivered(peer, device, received, "-f", FLOWS, "-l", FRAME)
    return Traffic(arrived, sent(device, SENT, "-f", FLOWS, "-l", FRAME))


def by_point(found: list[dict[str, Any]], term: str = "seen") -> dict[tuple[int, int], int]:
    """Packets of a term by index and direction; of each the difference is 0."""
    assert all(each["difference"] == {"packets": 0, "l2_bytes": 0} for each in found)
    return {(each["if_index"], each["flow_direction"]): each[term]["packets"] for each in found}


def carried(url: str, prefix: str) -> Counter[tuple[int, int]]:
    """Packets of the flow records by index and direction, without the audit."""
    packets: Counter[tuple[int, int]] = Counter()
    for record in records_of(url, f"{prefix}.flows"):
        assert isinstance(record, FlowRecord)
        packets[record.if_index, record.flow_direction] += record.packets
    return packets


def counters(url: str, prefix: str = "flowstream") -> list[CountersRecord]:
    found = records_of(url, f"{prefix}.counters")
    return [each for each in found if isinstance(each, CountersRecord)]


@pytest.mark.parametrize("sink", ["file", "kafka"])
def test_records_and_counters_of_both_directions(wire, request, tmp_path, sink):
    peer, device = wire
    prefix = f"directions-{sink}"
    broker = request.getfixturevalue("broker") if sink == "kafka" else None
    url = broker.url if broker else f"file:{tmp_path}/recording"
    options = ("--sink", url, "--topic-prefix", prefix, "--interval", 1)
    with Agent(*on(device), *BOTH, *options) as agent:
        agent.publishing()
        traffic = exchanged(peer, device)
        agent.stop()
        attached = {each["direction"]: each for each in agent.logs("attached")}
        (ended,) = agent.logs("ended")
    expected = traffic.of(device.index)
    assert traffic.sent == SENT
    assert (ended["attached"], ended["seen_packets"]) == (2, sum(expected.values()))
    assert {way: (each["mode"], each["program"]) for way, each in attached.items()} == {
        "ingress": ("native", "xdp_flow"),
        "egress": ("tcx", "tc_flow"),
    }
    found = audited(url, prefix)
    assert by_point(found) == by_point(found, "flows") == expected == carried(url, prefix)
    assert [each["seen"]["l2_bytes"] for each in found] == [
        count * FRAME for count in expected.values()
    ]
    finals = [each for each in counters(url, prefix) if each.final]
    assert {
        each.flow_direction: (each.attach_mode, each.program_name, each.program_id)
        for each in finals
    } == {
        number: tuple(attached[way][name] for name in ("mode", "program", "program_id"))
        for number, way in ((INGRESS, "ingress"), (EGRESS, "egress"))
    }
    assert len(finals) == 2
    announced = records_of(url, f"{prefix}.new_flows")
    assert Counter(each.flow_direction for each in announced) == {INGRESS: FLOWS, EGRESS: FLOWS}


def test_the_interface_is_in_the_field_of_its_direction(wire, recording_url):
    peer, device = wire
    with Agent(*on(device), *BOTH, "--sink", recording_url) as agent:
        agent.publishing()
        exchanged(peer, device)
        agent.stop()
    lines = flowstream("cat", recording_url, "--topic", "flowstream.flows").stdout.splitlines()
    found = {
        (each["flow_direction"], each["if_index"], each["in_if"], each["out_if"])
        for each in map(json.loads, lines)
    }
    assert found == {
        (INGRESS, device.index, device.index, 0),
        (EGRESS, device.index, 0, device.index),
    }


@pytest.mark.parametrize(
    ("options", "modes"),
    [
        (("--direction", "egress"), {"egress": "tcx"}),
        ((*BOTH, "--hook", "tcx"), {"ingress": "tcx", "egress": "tcx"}),
        ((*BOTH, "--hook", "xdp", "--mode", "generic"), {"ingress": "generic", "egress": "tcx"}),
        (("--hook", "tcx"), {"ingress": "tcx"}),
    ],
)
@pytest.mark.parametrize("program", ["flow", "counter"])
def test_directions_and_hooks(wire, recording_url, options, modes, program):
    peer, device = wire
    with Agent(*on(device), *options, "--program", program, "--sink", recording_url) as agent:
        agent.publishing()
        traffic = exchanged(peer, device)
        agent.stop()
        assert {each["direction"]: each["mode"] for each in agent.logs("attached")} == modes
    expected = {
        point: count
        for point, count in traffic.of(device.index).items()
        if ("ingress", "egress")[point[1]] in modes
    }
    found = audited(recording_url)
    assert by_point(found) == expected
    if program == "counter":
        assert [each["no_flow"]["counted"]["packets"] for each in found] == [*expected.values()]
        (announced,) = {each.proto for each in records_of(recording_url, "flowstream.new_flows")}
        assert announced == 0
    else:
        assert carried(recording_url, "flowstream") == expected


def test_interfaces_of_two_namespaces_that_come_go_and_get_another_name(recording_url):
    with namespace() as here, namespace() as blue, namespace() as red:
        sites = [Site(here, place, number * 10) for number, place in enumerate((blue, red))]
        where = ("-i", "far*", "--netns", blue.name, "--netns", red.name)
        with Agent(*where, *BOTH, "--sink", recording_url) as agent:
            agent.publishing()
            first, second = (site.create() for site in sites)
            assert wait_until(lambda: len(agent.logs("attached")) == 4, 60), agent.output()
            expected = {}
            for number, link in enumerate((first, second)):
                traffic = exchanged(link.sender, link.receiver)
                expected |= traffic.of(number << 24 | link.index)
            second.rename("farther")
            assert wait_until(lambda: bool(agent.logs("interface_renamed")), 60)
            for point, count in (
                exchanged(second.sender, second.receiver).of(1 << 24 | second.index).items()
            ):
                expected[point] += count
            first.delete()
            assert wait_until(lambda: len(finals_of(recording_url)) == 2, 60)
            agent.stop()
            # Each is logged once, not for each direction.
            assert [each["interface"] for each in agent.logs("interface_gone")] == ["far0"]
            assert [each["interface"] for each in agent.logs("interface_renamed")] == ["farther"]
            (ended,) = agent.logs("ended")
    assert (ended["attached"], ended["detached"], ended["failed_attaches"]) == (4, 2, 0)
    found = audited(recording_url)
    assert by_point(found) == by_point(found, "flows") == expected
    assert {each["if_name"] for each in found if each["if_index"] >> 24} == {"farther"}


def finals_of(url: str) -> list[tuple[int, int]]:
    """Index and direction of each final counters record."""
    return [(each.if_index, each.flow_direction) for each in counters(url) if each.final]

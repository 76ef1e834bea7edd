"""``flowstream run`` on a kernel without TCX, where filters observe at the TC hook."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from support import attached
from support.agent import BEFORE_6_6, Agent, audited, delivered, on
from support.bpffs import mounted
from support.tc import add_foreign, filters, qdiscs, tc
from support.traffic import load, sent, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS

if TYPE_CHECKING:
    from support.net import Interface

BOTH = ("--direction", "both", "--hook", "tcx")
OURS = [(1, "flowstream")]
RECEIVED, SENT = 5_003, 3_001


def agent_on(device: Interface, url: str, *options: str | float) -> Agent:
    return Agent(*on(device), *options, "--sink", url, before=BEFORE_6_6)


def exchange(peer: Interface, device: Interface) -> list[int]:
    """Let a device receive and send packets; return how many, by direction."""
    arrived = delivered(peer, device, RECEIVED, "-f", 101)
    return [arrived, sent(device, SENT, "-f", 101)]


def packets_of(url: str) -> list[int]:
    """Packets in published flows, by direction, of which each seen one is in a record."""
    found = sorted(audited(url), key=lambda each: each["flow_direction"])
    assert all(each["difference"] == {"packets": 0, "l2_bytes": 0} for each in found)
    assert [each["flow_direction"] for each in found] == [INGRESS, EGRESS]
    return [each["flows"]["packets"] for each in found]


@pytest.mark.parametrize("program", ["flow", "counter"])
def test_both_directions(wire, recording_url, program):
    peer, device = wire
    with agent_on(device, recording_url, *BOTH, "--program", program) as agent:
        agent.publishing()
        assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
        traffic = exchange(peer, device)
        agent.stop()
        assert [each["mode"] for each in agent.logs("attached")] == ["clsact"] * 2
        assert not agent.logs("attacher_calls_not_restricted")
        (ended,) = agent.logs("ended")
    assert qdiscs(device) == []
    assert ended["seen_packets"] == sum(traffic)
    found = sorted(audited(recording_url), key=lambda each: each["flow_direction"])
    assert [each["seen"]["packets"] for each in found] == traffic


def test_a_killed_agent_leaves_no_filter(wire, recording_url):
    peer, device = wire
    tc(device, "qdisc add DEV clsact")
    add_foreign(device, INGRESS, 7)
    others = tc(device, "filter show DEV ingress")
    with agent_on(device, recording_url, *BOTH) as agent:
        agent.publishing()
        exchange(peer, device)
        agent.process.kill()
        agent.wait()
        assert wait_until(lambda: tc(device, "filter show DEV ingress") == others)
        assert wait_until(lambda: filters(device, EGRESS) == [])
    with agent_on(device, recording_url, *BOTH) as agent:
        agent.publishing()
        agent.stop()
    assert tc(device, "filter show DEV ingress") == others
    assert qdiscs(device) == ["clsact"]
    tc(device, "qdisc delete DEV clsact")


def test_both_processes_killed_the_next_start_removes_what_is_left(wire, recording_url):
    peer, device = wire
    with agent_on(device, recording_url, *BOTH) as agent:
        agent.publishing()
        attacher = attached.attacher_of(agent)
        # Together: neither can see the other's end.
        os.kill(agent.pid, signal.SIGSTOP)
        os.kill(attacher, signal.SIGKILL)
        agent.process.kill()
        agent.wait()
    assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
    with agent_on(device, recording_url + "-next", *BOTH) as agent:
        agent.publishing()
        assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
        traffic = exchange(peer, device)
        agent.stop()
    assert qdiscs(device) == []
    assert packets_of(recording_url + "-next") == traffic


def test_a_run_whose_attacher_is_killed_ends_in_order_under_traffic(wire, recording_url):
    """Its filters stay and its programs still run, but count nothing any more."""
    peer, device = wire
    with agent_on(device, recording_url, *BOTH) as agent:
        agent.publishing()
        counts = ("rx_packets", "tx_packets")
        before = [device.statistic(each) for each in counts]
        with load(peer, 101, 20_011), load(device, 101, 20_011, through_tc=True):
            for each, count in zip(counts, before, strict=True):
                assert wait_until(lambda: device.statistic(each) > count + 1_009, 60)  # noqa: B023
            os.kill(attached.attacher_of(agent), signal.SIGKILL)
            assert agent.wait() == 1
        assert agent.logs("attacher_ended")
        errors = [each["error"] for each in agent.logs("a stage failed")]
        assert [each for each in errors if "may still be there" in each]
        assert "Traceback" not in agent.output()
    assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
    assert all(packets_of(recording_url))
    tc(device, "qdisc delete DEV clsact")


def test_a_qdisc_that_another_process_deletes_is_made_again(wire, recording_url):
    peer, device = wire
    options = (*BOTH, "--counters-period", 0.2)
    with agent_on(device, recording_url, *options) as agent:
        agent.publishing()
        before = exchange(peer, device)
        tc(device, "qdisc delete DEV clsact")
        assert wait_until(lambda: len(agent.logs("attached")) == 4, 60), agent.output()
        after = exchange(peer, device)
        agent.stop()
    assert packets_of(recording_url) == [sum(each) for each in zip(before, after, strict=True)]
    assert qdiscs(device) == []


def test_two_agents_on_one_interface(wire, recording_url):
    peer, device = wire
    with agent_on(device, recording_url, *BOTH) as first:
        first.publishing()
        traffic = [exchange(peer, device)]
        with agent_on(device, recording_url + "-second", *BOTH) as second:
            second.publishing()
            traffic.append(exchange(peer, device))
            first.stop()
            traffic.append(exchange(peer, device))
            second.stop()
    sums = [[sum(each) for each in zip(*traffic[i : i + 2], strict=True)] for i in (0, 1)]
    assert packets_of(recording_url) == sums[0]
    assert packets_of(recording_url + "-second") == sums[1]
    assert qdiscs(device) == []


def test_pins_are_refused(wire, tmp_path):
    _, device = wire
    with mounted(tmp_path / "bpf") as where:
        options = (*BOTH, "--pin", f"{where}/flowstream", "--user", "root")
        with agent_on(device, f"file:{tmp_path}/recording", *options) as agent:
            assert agent.wait() == 2
            assert "pin: at the TC hook it requires Linux 6.6 or later" in agent.output()
    assert qdiscs(device) == []

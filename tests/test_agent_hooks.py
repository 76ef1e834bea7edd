"""Another XDP program was there first: --hook auto observes beside it, and leaves it alone."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, carried, delivered, flowstream, on, records_of
from support.chains import Chain, directory, sums
from support.net import interface, namespace, veth_pair
from support.other_xdp import LONGEST, NAME, OtherProgram, Verdicts
from support.traffic import sent, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode
from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from support.net import Interface

PASSED, DROPPED = 3_001, 2_003
BOTH = ("--direction", "both")


def send(peer: Interface, device: Interface) -> Verdicts:
    """Send packets that the other program passes, and others that it drops."""
    return Verdicts(
        delivered(peer, device, PASSED, "-l", LONGEST),
        delivered(peer, device, DROPPED, "-l", LONGEST + 1),
    )


def has_given(other: OtherProgram, *expected: Verdicts) -> bool:
    """Whether it runs, and has given these verdicts, once the last packet has come to it."""
    return wait_until(lambda: other.verdicts() == added(*expected)) and other.in_force


def added(*several: Verdicts) -> Verdicts:
    return Verdicts(*map(sum, zip(*several, strict=True)))


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
@pytest.mark.parametrize("options", [(), ("--hook", "tcx"), ("--direction", "both")])
def test_it_is_observed_beside_and_goes_on_as_before(wire, recording_url, mode, options):
    peer, device = wire
    with device.namespace.entered(), OtherProgram(device.index, mode) as other:
        before = send(peer, device)
        assert has_given(other, before)
        with Agent(*on(device), *options, "--sink", recording_url) as agent:
            agent.publishing()
            during = send(peer, device)
            assert has_given(other, before, during)
            agent.stop()
            attached = agent.logs("attached")
            assert not agent.logs("attach_failed")
        after = send(peer, device)
        assert has_given(other, before, during, after)
    ingress = attached[0]
    assert (ingress["direction"], ingress["mode"]) == ("ingress", "tcx")
    because = (
        [] if options == ("--hook", "tcx") else [f"program {NAME} (id {other.id}) is attached"]
    )
    assert [each["reason"] for each in attached if "reason" in each] == because
    # It sees what the other program passes.
    found = audited(recording_url)[0]
    assert (
        found["seen"]
        == found["flows"]
        == {
            "packets": during.passed,
            "l2_bytes": during.passed * LONGEST,
        }
    )
    assert carried(recording_url) == {device.index: during.passed}


PINGS = 53


@pytest.mark.parametrize("address", ["02:00:00:00:00:07", "46:00:00:00:00:07"])
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC, None])
def test_packets_are_read_whole_and_still_reach_the_host(recording_url, address, mode):
    """Generic XDP hides their link-layer header; an address may look like that of IP."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(namespace()) for _ in range(2))
        stack.enter_context(veth_pair(here, there))
        there.run("ip", "link", "set", "far", "address", address)
        for place, name, number in ((here, "near", 1), (there, "far", 2)):
            place.run("ip", "link", "set", name, "arp", "on")
            place.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", name)
        device = interface(there, "far")
        stack.enter_context(there.entered())
        other = stack.enter_context(OtherProgram(device.index, mode)) if mode else None
        with Agent(*on(device), *BOTH, "--hook", "tcx", "--sink", recording_url) as agent:
            agent.publishing()
            here.run("ping", "-q", "-c", str(PINGS), "-i", "0.01", "-w", "30", "10.0.0.2")
            agent.stop()
        assert other is None or other.verdicts().dropped == 0
    seen: Counter[tuple[int, str, str]] = Counter()
    for record in records_of(recording_url, "flowstream.flows"):
        assert isinstance(record, FlowRecord)
        source, destination = (str(each) for each in (record.source, record.destination))
        seen[record.flow_direction, source, destination] += record.packets
        its_mac = record.src_mac if record.flow_direction else record.dst_mac
        assert its_mac == bytes.fromhex(address.replace(":", ""))
        assert record.l2_bytes == record.packets * (14 + 84)
    assert seen == {
        (INGRESS, "10.0.0.1", "10.0.0.2"): PINGS,
        (EGRESS, "10.0.0.2", "10.0.0.1"): PINGS,
    }
    assert [each["no_flow"]["malformed"]["packets"] for each in audited(recording_url)] == [0, 0]


def test_with_xdp_alone_it_is_refused_and_the_message_names_the_other_hook(wire, recording_url):
    _, device = wire
    with device.namespace.entered(), OtherProgram(device.index) as other:
        for direction in ("ingress", "both"):
            options = ("--hook", "xdp", "--direction", direction, "--sink", recording_url)
            done = flowstream("run", *on(device), *options)
            assert done.returncode == 1
            assert f"program {NAME} (id {other.id}) is already there" in done.stderr
            assert "--hook tcx" in done.stderr
            assert "Traceback" not in done.stderr
            assert other.in_force


def test_it_may_leave_and_come_back_while_the_agent_observes(wire, recording_url):
    """The attachment stays what it is: no packet is missed, and none is counted twice."""
    peer, device = wire
    with (
        device.namespace.entered(),
        OtherProgram(device.index) as other,
        Agent(*on(device), "--sink", recording_url) as agent,
    ):
        agent.publishing()
        first = send(peer, device)
        other.close()
        alone = send(peer, device)
        with OtherProgram(device.index):
            last = send(peer, device)
        agent.stop()
        assert [each["mode"] for each in agent.logs("attached")] == ["tcx"]
        assert not agent.logs("program_replaced")
    (found,) = audited(recording_url)
    assert found["seen"]["packets"] == first.passed + sum(alone) + last.passed
    assert found["flows"] == found["seen"]


def test_with_pins_the_next_run_goes_on_beside_it(bpffs, wire, recording_url):
    """The link at the TC hook is taken over, also when the hook of XDP is free by then."""
    peer, device = wire
    passed = 0
    with directory(bpffs, "pins") as pins, device.namespace.entered():
        chain = Chain(wire, recording_url, pins, "--user", "root", "--mode", "native")
        with OtherProgram(device.index) as other:
            for run in range(2):
                with chain.agent() as agent:
                    agent.publishing()
                    passed += send(peer, device).passed
                    agent.stop()
                    assert len(agent.logs("took_over")) == run
                passed += send(peer, device).passed
            assert other.in_force
        with chain.agent() as agent:
            agent.publishing()
            passed += sum(send(peer, device))
            agent.stop()
            assert [each["mode"] for each in agent.logs("attached")] == ["tcx"]
            assert len(agent.logs("took_over")) == 1
        runs = chain.close()
    assert sums(runs)["published"] == passed
    assert len(runs) == 3


def test_what_it_refuses_in_one_direction_leaves_the_other_alone(recording_url):
    with namespace() as here, namespace() as there, veth_pair(here, there) as (peer, device):
        options = ("-i", "f*", "--netns", there.name, "--direction", "both", "--hook", "xdp")
        with (
            there.entered(),
            OtherProgram(device.index) as other,
            Agent(*options, "--sink", recording_url) as agent,
        ):
            agent.publishing()
            send(peer, device)
            sent(device, PASSED)
            other.close()
            # It is free now, and tried again.
            assert wait_until(lambda: len(agent.logs("attached")) == 2, 90), agent.output()
            arrived = sum(send(peer, device))
            agent.stop()
            assert {each["direction"] for each in agent.logs("attach_failed")} == {"ingress"}
            attached = [(each["direction"], each["mode"]) for each in agent.logs("attached")]
    assert attached == [("egress", "tcx"), ("ingress", "native")]
    found = {each["flow_direction"]: each["seen"]["packets"] for each in audited(recording_url)}
    assert found == {INGRESS: arrived, EGRESS: PASSED}


def test_beside_another_agent_it_takes_the_word_of_the_operator(wire, recording_url):
    """Else packets would be published twice because an agent was started twice."""
    peer, device = wire
    with device.namespace.entered(), CounterProbe(max_flows=101) as first:
        first.attach(device.name)
        refused = flowstream("run", *on(device), "--sink", recording_url)
        assert refused.returncode == 1
        assert "program count_ipv4 (id " in refused.stderr
        with Agent(*on(device), "--hook", "tcx", "--sink", recording_url) as agent:
            agent.publishing()
            arrived = sum(send(peer, device))
            agent.stop()
    assert carried(recording_url) == {device.index: arrived}

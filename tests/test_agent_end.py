"""The end of runs, and the privileges of a running agent."""

from __future__ import annotations

import pwd
import re
import signal
from typing import TYPE_CHECKING

import pytest
from support.agent import (
    Agent,
    audit,
    audited,
    carried,
    delivered,
    last_counters,
    on,
    records_of,
)
from support.traffic import load, wait_until

if TYPE_CHECKING:
    from support.net import Interface

PACKETS = 100_003
FLOWS = 1_009


def program_on(interface: Interface) -> int | None:
    """Id of the XDP program on an interface, as ip shows it."""
    shown = interface.namespace.run("ip", "link", "show", interface.name)
    found = re.search(r"prog/xdp id (\d+)", shown)
    return int(found[1]) if found else None


def test_every_interface_leaves_a_trace_before_the_first_period_is_over(pairs, recording_url):
    """Nothing else names an idle interface whose final counters do not come."""
    (_, first), (_, second) = pairs
    options = ("--counters-period", 3_600)
    with Agent(*on(first, second), "--sink", recording_url, *options) as agent:
        agent.publishing()
        assert wait_until(lambda: len(records_of(recording_url, "flowstream.counters")) == 2)
        agent.signal(signal.SIGKILL)
        assert agent.wait() == -signal.SIGKILL
    status, result = audit(recording_url)
    assert status == 1
    (run,) = result["runs"]
    assert [text.split()[0] for text in run["problems"]] == [first.name, second.name]
    assert all(": run did not end cleanly: no final" in text for text in run["problems"])


def test_a_killed_agent_leaves_nothing_and_the_next_one_starts(wire, recording_url, tmp_path):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--interval", 0.1) as agent:
        agent.publishing()
        assert program_on(receiver)
        delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert wait_until(lambda: counters_are_there(recording_url))
        agent.signal(signal.SIGKILL)
        assert agent.wait() == -signal.SIGKILL
    assert wait_until(lambda: program_on(receiver) is None)
    status, result = audit(recording_url)
    assert status == 1
    assert "did not end cleanly" in str(result["runs"][0]["problems"])
    again = f"file:{tmp_path}/again"
    with Agent(*on(receiver), "--sink", again) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(again)
    assert interface["flows"]["packets"] == arrived


def counters_are_there(url: str) -> bool:
    status, result = audit(url)
    assert status == 1
    return any(each["counters"] for run in result["runs"] for each in run["interfaces"])


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
def test_the_end_under_full_load_is_in_order(wire, recording_url, record_format):
    sender, receiver = wire
    options = ("--sink", recording_url, "--format", record_format, "--interval", 1)
    with Agent(*on(receiver), *options) as agent, load(sender, FLOWS):
        agent.publishing()
        first = receiver.statistic("rx_packets")
        assert wait_until(lambda: receiver.statistic("rx_packets") > first + PACKETS, 60)
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] >= PACKETS


def test_a_second_signal_ends_at_once(wire, broker_factory):
    sender, receiver = wire
    broker = broker_factory()
    with Agent(*on(receiver), "--sink", broker.url, "--shutdown-timeout", 600) as agent:
        agent.publishing()
        broker.stop(signal.SIGKILL)
        delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.signal(signal.SIGTERM)
        assert agent.saw("stopping", 60)
        # Without the broker the end takes a while.
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1
        assert agent.logs("second signal: ending at once, unpublished records are lost")
        assert "Traceback" not in agent.output()
    assert wait_until(lambda: program_on(receiver) is None)


def test_the_first_signal_after_an_end_of_its_own_interrupts_nothing(wire, broker_factory):
    sender, receiver = wire
    broker = broker_factory()
    # Longer than a busy machine needs to stop the broker.
    options = ("--sink", broker.url, "--duration", 5, "--shutdown-timeout", 5)
    with Agent(*on(receiver), *options) as agent:
        agent.publishing()
        broker.stop(signal.SIGKILL)
        delivered(sender, receiver, FLOWS, "-f", FLOWS)
        # It detached after its duration; without the broker the rest takes a while.
        assert wait_until(lambda: program_on(receiver) is None)
        agent.signal(signal.SIGTERM)
        # An orderly end, but without a broker for the final counters.
        assert agent.wait() == 1
        assert agent.logs("ended")


def test_interrupted_from_the_terminal(wire, recording_url):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        agent.signal(signal.SIGINT)
        assert agent.wait() == 0
    audited(recording_url)


def test_no_privilege_is_left_once_it_runs(wire, recording_url):
    sender, receiver = wire
    nobody = pwd.getpwnam("nobody")
    with Agent(*on(receiver), "--sink", recording_url, "--interval", 0.1) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        # Every stage has run by now, and so has every thread.
        assert wait_until(lambda: carried(recording_url).total() == arrived)
        assert agent.status("Uid") == {"\t".join([str(nobody.pw_uid)] * 4)}
        assert agent.status("Gid") == {"\t".join([str(nobody.pw_gid)] * 4)}
        assert agent.status("Groups") == {""}
        for held in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert agent.status(held) == {"0" * 16}, held
        assert agent.status("NoNewPrivs") == {"1"}
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived
    assert last_counters(recording_url).table_swaps > 1

"""Pinned runs of both directions and of either hook: restarts, and what another hook refuses."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from support.agent import delivered, flowstream, quiet, records_of
from support.chains import Chain, closed, directory, generations, published, sums
from support.pinned import PinnedRun, emptied
from support.tc import NEXT
from support.tcx import OtherProgram, programs
from support.traffic import THROUGH_TC, load, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.link import Mode
from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.net import Interface

PACKETS = 10_007
FLOWS = 307
PPS = 40_000
POINTS = (INGRESS, EGRESS)
NAMES = ("ingress", "egress")


@pytest.fixture
def chain(bpffs: Path, wire, recording_url) -> Iterator[Chain]:
    with directory(bpffs, "pins") as pins:
        yield Chain(wire, recording_url, pins, "--user", "root")


def exchanged(chain: Chain) -> list[int]:
    """Send packets both ways; how many the receiver has received and sent."""
    one, other = chain.sender, chain.receiver
    received = delivered(one, other, PACKETS, "-f", FLOWS, "-p", 50_000)
    return [received, delivered(other, one, PACKETS + 2, "-f", FLOWS, *THROUGH_TC)]


def passed(device: Interface) -> list[int]:
    """Packets that a device has received and tried to send, once nothing is under way."""
    received = quiet(device)
    return [received, device.statistic("tx_packets") + device.statistic("tx_dropped")]


@contextmanager
def load_both_ways(chain: Chain) -> Iterator[list[int]]:
    """Traffic both ways; at its end the list has what has passed meanwhile, by direction."""
    before, arrived = passed(chain.receiver), [0, 0]
    with (
        load(chain.sender, FLOWS, PPS),
        load(chain.receiver, FLOWS, PPS, through_tc=True),
    ):
        yield arrived
    arrived[:] = [now - then for now, then in zip(passed(chain.receiver), before, strict=True)]


def test_twenty_take_overs_of_both_directions_miss_no_packet_and_double_none(bpffs, wire):
    place, (sender, receiver) = bpffs / "pins", wire
    before = passed(receiver)
    seen, recorded = [[0], [0]], 0
    with directory(bpffs, "pins"), ExitStack() as traffic:
        for number in range(21):
            with PinnedRun(place, number) as run:
                for each in POINTS:
                    run.attach(receiver, Mode.TCX, direction=each)
                for earlier in run.earlier:
                    recorded += emptied(earlier)
                    assert len(earlier.codes) == len(POINTS)
                    for code in earlier.codes:
                        seen[code & 1].append(earlier.counters(code).seen.packets)
                    earlier.remove()
            if number == 0:
                for each in (sender, receiver):
                    traffic.enter_context(load(each, FLOWS, 30_000, through_tc=True))
        traffic.close()
        after = passed(receiver)
        with PinnedRun(place, 21) as run:
            (last,) = run.earlier
            for link in last.links.values():
                link.detach()
            recorded += emptied(last)
            for code in last.codes:
                seen[code & 1].append(last.counters(code).seen.packets)
            last.remove()
    arrived = [now - then for now, then in zip(after, before, strict=True)]
    assert [*map(sum, seen)] == arrived
    assert recorded == sum(arrived)
    # It went on while the runs began.
    assert all(sum(packets > 0 for packets in each) > 10 for each in seen)


def test_restarts_under_load_lose_nothing_in_either_direction(chain):
    options = ("--direction", "both")
    with chain.agent(*options) as agent:
        agent.publishing()
        agent.stop()
    with load_both_ways(chain) as arrived:
        for _ in range(4):
            with chain.agent(*options) as agent:
                agent.publishing()
                took = {(each["interface"], each["direction"]) for each in agent.logs("took_over")}
                assert took == {(chain.receiver.name, name) for name in NAMES}
                time.sleep(0.2)
                agent.stop()
    runs = chain.close()
    assert len(runs) == 5
    assert sums(runs) == {
        "seen": sum(arrived), "published": sum(arrived), "lost": 0, "killed": 0,
    }  # fmt: skip
    by_direction = [0, 0]
    for record in records_of(chain.url, "flowstream.flows"):
        assert isinstance(record, FlowRecord)
        by_direction[record.flow_direction] += record.packets
    assert by_direction == arrived


def test_sigkill_under_load_leaves_nothing_unexplained_in_either_direction(chain):
    options = ("--direction", "both", "--hook", "tcx")
    with chain.agent(*options) as agent:
        agent.publishing()
        agent.stop()
    with load_both_ways(chain) as arrived:
        for number in range(4):
            with chain.agent(*options) as agent:
                agent.publishing()
                time.sleep(0.1 * number)
                agent.signal(signal.SIGKILL)
                agent.wait()
    runs = chain.close()
    found = sums(runs)
    assert (found["seen"], found["lost"]) == (sum(arrived), 0)
    assert 0 <= sum(arrived) - found["published"] <= found["killed"]
    seen = [0, 0]
    for each in (interface for run in runs for interface in run["interfaces"]):
        seen[each["flow_direction"]] += each["seen"]["packets"]
    assert seen == arrived


@pytest.mark.parametrize(
    ("first", "then", "mode", "remedy"),
    [
        ((), ("--hook", "tcx"), "native", "use --hook xdp, or"),
        (("--hook", "tcx"), ("--hook", "xdp"), "tcx", "use --hook tcx, or"),
        (("--hook", "tcx"), ("--hook", "xdp", "--mode", "generic"), "tcx", "use --hook tcx, or"),
    ],
)
def test_another_hook_is_refused_with_both_ways_out(chain, first, then, mode, remedy):
    with chain.agent(*first) as agent:
        agent.publishing()
        agent.stop()
    before = generations(chain.pins)
    arrived = delivered(chain.sender, chain.receiver, PACKETS)
    with chain.agent(*then) as agent:
        assert agent.wait() == 1
        (line,) = [each for each in agent.output().splitlines() if "error: " in each]
    assert f"interface {chain.receiver.name} is observed in mode {mode}: {remedy} " in line
    assert line.endswith("remove what is pinned: flowstream detach")
    assert generations(chain.pins) == before
    # What it says is right: the chain goes on.
    assert sums(chain.close())["published"] == arrived


def test_auto_takes_a_link_of_either_hook(chain):
    with chain.agent("--hook", "tcx") as agent:
        agent.publishing()
        agent.stop()
    arrived = delivered(chain.sender, chain.receiver, PACKETS)
    with chain.agent("--mode", "native") as agent:
        agent.publishing()
        (attached,) = agent.logs("attached")
        assert (attached["mode"], attached["program"]) == ("tcx", "tc_flow")
        assert len(agent.logs("took_over")) == 1
        closed(agent)
        agent.stop()
    assert published(chain.url) == arrived


def test_a_direction_that_is_not_observed_any_more_is_detached(chain):
    with chain.agent("--direction", "both") as agent:
        agent.publishing()
        agent.stop()
    received, sent = exchanged(chain)
    with chain.agent() as agent:
        agent.publishing()
        closed(agent)
        (detached,) = agent.logs("earlier_link_detached")
        assert (detached["interface"], detached["direction"]) == (chain.receiver.name, "egress")
        assert programs(chain.receiver, EGRESS) == []
        agent.stop()
    assert published(chain.url) == received + sent


def test_detach_takes_off_both_directions_and_no_program_of_another(chain):
    receiver = chain.receiver
    with OtherProgram(receiver, INGRESS, NEXT) as other:
        with chain.agent("--direction", "both", "--hook", "tcx") as agent:
            agent.publishing()
            agent.stop()
        received, sent = exchanged(chain)
        done = flowstream("detach", chain.pins)
        assert (done.returncode, done.stderr) == (0, "")
        where = f"{receiver.name} in {receiver.namespace.name}"
        assert f": detached from {where}, {where} (egress); " in done.stdout
        assert f"{received + sent:,} packets had not been published" in done.stdout
        assert not chain.pins.exists()
        assert wait_until(lambda: programs(receiver, INGRESS) == [other.id])
        assert programs(receiver, EGRESS) == []
        assert other.packets == received

"""Agents with --pin: restarts without a gap, in order and by SIGKILL, under load."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from broker.acls import ANYBODY, AUTHORIZING, allow, deny
from support.agent import delivered, finals_of
from support.attached import attacher_of
from support.chains import Chain, closed, directory, generations, published, sums
from support.net import namespace, veth_pair
from support.traffic import load, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.agent import Agent

PACKETS = 20_011
FLOWS = 503
PPS = 50_000


@pytest.fixture
def chain(bpffs: Path, wire, recording_url) -> Iterator[Chain]:
    with directory(bpffs, "restarts") as pins:
        yield Chain(wire, recording_url, pins)


def begin(chain: Chain) -> None:
    """Let a run begin and end: from now on all that arrives belongs to the chain."""
    with chain.agent() as agent:
        agent.publishing()
        agent.stop()


def test_what_arrives_without_an_agent_is_published_by_the_next(chain):
    with chain.agent() as agent:
        agent.publishing()
        first = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
        agent.stop()
        (pinned,) = agent.logs("pinned")
        assert str(chain.pins) in pinned["remedy"]
        (ended,) = agent.logs("ended")
        assert ended["seen_packets"] == first
        assert ended["flow_records"] >= FLOWS
    between = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
    with chain.agent() as agent:
        agent.publishing()
        (took,) = agent.logs("took_over")
        closed(agent)
        (line,) = agent.logs("run_closed")
        assert (line["records"], line["in_doubt_packets"]) == (FLOWS, 0)
        last = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    first_run, last_run = chain.runs()
    assert took["previous_epoch"] == first_run["agent_epoch"]
    assert generations(chain.pins) == [str(last_run["agent_epoch"])]
    assert sums([first_run]) == {
        "seen": first + between, "published": first + between, "lost": 0, "killed": 0,
    }  # fmt: skip
    assert sums([last_run])["published"] == last
    assert published(chain.url) == chain.arrived == first + between + last


def test_orderly_restarts_under_load_lose_nothing(chain):
    begin(chain)
    with load(chain.sender, FLOWS, PPS):
        for _ in range(5):
            with chain.agent() as agent:
                agent.publishing()
                time.sleep(0.3)
                agent.stop()
    arrived = chain.quiet()
    runs = chain.close()
    assert len(runs) == 6
    assert sums(runs) == {"seen": arrived, "published": arrived, "lost": 0, "killed": 0}
    assert published(chain.url) == arrived


def test_sigkill_under_load_leaves_nothing_unexplained(chain):
    begin(chain)
    with load(chain.sender, FLOWS, PPS):
        for n in range(5):
            with chain.agent() as agent:
                agent.publishing()
                time.sleep(0.1 * n)
                agent.signal(signal.SIGKILL)
                agent.wait()
    arrived = chain.quiet()
    runs = chain.close()
    found = sums(runs)
    assert (found["seen"], found["lost"]) == (arrived, 0)
    assert 0 <= arrived - found["published"] <= found["killed"]


def test_killed_twice_while_it_closes_the_run_before(chain):
    """More flows than are published at once: the closing takes its time."""
    many = 100_003
    begin(chain)
    arrived = killed = 0
    while killed < 2:
        if not killed:
            arrived += delivered(chain.sender, chain.receiver, 2 * many, "-f", many)
        before = written(chain)
        with chain.agent() as agent:
            agent.publishing()
            assert wait_until(lambda: written(chain) > before)  # noqa: B023
            agent.signal(signal.SIGKILL)
            agent.wait()
            # On a busy machine the signal may come when all is published.
            killed = 0 if agent.logs("run_closed") else killed + 1
    runs = chain.close()
    found = sums(runs)
    assert (found["seen"], found["lost"]) == (arrived, 0)
    assert 0 <= arrived - found["published"] <= found["killed"] < arrived
    assert generations(chain.pins) == []


def written(chain: Chain) -> int:
    """Octets of flow records in the recording."""
    return sum(each.stat().st_size for each in chain.recording.glob("*.flows-*/*.log"))


def test_an_upgrade_may_change_the_size_of_the_table_and_the_sampling(chain):
    with chain.agent("--max-flows", 2_048) as agent:
        agent.publishing()
        agent.stop()
    # The table and its ring buffer overflow: the kernel counts what it loses.
    many = 300_007
    arrived = delivered(chain.sender, chain.receiver, many, "-f", many)
    with chain.agent("--max-flows", 65_536, "--sampling", 4) as agent:
        agent.publishing()
        closed(agent)
        more = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    first, last = chain.runs()
    assert sums([first])["seen"] == arrived
    (interface,) = first["interfaces"]
    lost = interface["losses"]["overflow_lost"]["packets"]
    assert lost > 0
    assert sums([first])["published"] + lost == arrived
    (interface,) = last["interfaces"]
    assert interface["seen"]["packets"] == more
    assert interface["no_flow"]["sampled_out"]["packets"] > 0


def test_an_interface_that_went_meanwhile_is_closed_with_what_it_counted(bpffs, recording_url):
    with (
        directory(bpffs, "restarts") as pins,
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as staying,
    ):
        chain = Chain(staying, recording_url, pins)
        with veth_pair(here, there, names=("near2", "far2")) as (sender, going):
            with chain.agent("-i", going.name) as agent:
                agent.publishing()
                agent.stop()
            first = delivered(staying.sender, staying.receiver, PACKETS, "-f", FLOWS)
            second = delivered(sender, going, 2 * PACKETS, "-f", FLOWS)
        with chain.agent() as agent:
            agent.publishing()
            closed(agent)
            assert len(agent.logs("took_over")) == 1
            agent.stop()
        run, _ = chain.close()
    seen = {each["if_name"]: each["seen"]["packets"] for each in run["interfaces"]}
    assert seen == {staying.receiver.name: first, going.name: second}
    assert published(recording_url) == first + second


@pytest.mark.parametrize("wait", ["interface_gone", "final counters"])
def test_an_interface_that_goes_before_the_agent_is_killed_counts_once(bpffs, recording_url, wait):
    with (
        directory(bpffs, "restarts") as pins,
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as staying,
    ):
        chain = Chain(staying, recording_url, pins)
        with (
            veth_pair(here, there, names=("near2", "far2")) as (sender, going),
            chain.agent("-i", "far*") as agent,
        ):
            agent.publishing()
            first = delivered(staying.sender, staying.receiver, PACKETS, "-f", FLOWS)
            second = delivered(sender, going, 2 * PACKETS, "-f", FLOWS)
            here.run("ip", "link", "delete", sender.name)
            assert agent.saw("interface_gone", 60)
            if wait == "final counters":
                assert wait_until(
                    lambda: going.index in [each.if_index for each in finals_of(chain.url)]
                )
            agent.signal(signal.SIGKILL)
            agent.wait()
        (run,) = chain.close()
    seen = {each["if_name"]: each["seen"]["packets"] for each in run["interfaces"]}
    assert seen == {staying.receiver.name: first, going.name: second}
    assert 0 <= first + second - sums([run])["published"] <= sums([run])["killed"]


def test_an_interface_that_is_not_chosen_any_more_is_detached(chain):
    begin(chain)
    arrived = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
    (run,) = chain.close()
    assert sums([run])["published"] == arrived
    assert "prog" not in chain.receiver.namespace.run("ip", "link", "show", chain.receiver.name)


def test_with_spool_and_broker_away_a_killed_agent_leaves_every_packet_explained(
    bpffs, wire, broker_factory, tmp_path
):
    broker = broker_factory()
    with directory(bpffs, "restarts") as pins:
        chain = Chain(wire, broker.url, pins, "--spool", tmp_path / "spool", "--format", "msgpack")
        begin(chain)
        with load(chain.sender, FLOWS, PPS):
            for n in range(4):
                if n == 1:
                    broker.stop()
                if n == 3:
                    broker.start()
                with chain.agent("--spool-rate", 20_000) as agent:
                    agent.publishing()
                    # The checkpoint is written each second: with it and between two.
                    time.sleep(0.7 * n + 0.3)
                    agent.signal(signal.SIGKILL)
                    agent.wait()
        arrived = chain.quiet()
        with chain.agent() as agent:
            agent.publishing()
            assert wait_until(lambda: len(generations(pins)) == 1, 120), agent.output()
            assert wait_until(lambda: not spooled(agent), 120), agent.output()
            agent.stop()
        runs = chain.close()
    found = sums(runs)
    assert (found["seen"], found["lost"]) == (arrived, 0)
    assert 0 <= arrived - found["published"] <= found["killed"] < arrived


def test_without_a_broker_the_run_that_took_over_waits_for_one(bpffs, wire, broker_factory):
    """Each run that ended instead would leave one more to be closed, in the kernel's memory."""
    broker = broker_factory()
    with directory(bpffs, "restarts") as pins:
        chain = Chain(wire, broker.url, pins)
        begin(chain)
        broker.stop()
        with chain.agent() as agent:
            assert agent.saw("sink_not_started", 60)
            (failed, *_) = agent.logs("sink_not_started")
            assert failed["error"].startswith("no Kafka broker after ")
            arrived = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
            agent.stop(status=1)
        with chain.agent() as agent:
            assert agent.saw("sink_not_started", 60)
            broker.start()
            agent.publishing()
            closed(agent, 2)
            agent.stop()
        runs = chain.close()
    assert sums(runs) == {"seen": arrived, "published": arrived, "lost": 0, "killed": 0}


def test_a_run_that_may_not_be_closed_holds_up_no_other(bpffs, wire, broker_factory):
    """Its prefix is not used any more, and its topic of counters forbidden."""
    broker = broker_factory(**AUTHORIZING)
    with directory(bpffs, "restarts") as pins:
        chain = Chain(wire, broker.url, pins)
        with chain.agent("--topic-prefix", "former") as agent:
            agent.publishing()
            agent.stop()
        allow(broker, ANYBODY, "former.counters", "ALL")
        deny(broker, ANYBODY, "former.counters", "WRITE")
        for run in range(2):
            with chain.agent() as agent:
                agent.publishing()
                assert agent.saw("run_not_closed", 60)
                if run:
                    closed(agent)
                agent.stop()
            assert len(generations(pins)) == 2


def spooled(agent: Agent) -> bool:
    """Whether records wait in the spool, by the log."""
    drained, began = agent.logs("spool_drained"), agent.logs("spool_found")
    began += agent.logs("spooling")
    return len(began) > len(drained)


def test_after_its_duration_and_after_a_fault_the_program_stays(chain):
    with chain.agent("--duration", 0.5) as agent:
        agent.publishing()
        assert agent.wait() == 0
        assert agent.logs("pinned")
    arrived = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
    with chain.agent() as agent:
        agent.publishing()
        os.kill(attacher_of(agent), signal.SIGKILL)
        assert agent.wait() == 1
        assert agent.logs("pinned")
    arrived += delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
    runs = chain.close()
    assert sums(runs) == {"seen": arrived, "published": arrived, "lost": 0, "killed": 0}


def test_a_second_signal_leaves_what_is_unpublished_to_the_next_run(bpffs, wire, broker_factory):
    broker = broker_factory()
    with directory(bpffs, "restarts") as pins:
        chain = Chain(wire, broker.url, pins)
        # Without the broker the end takes a while.
        with chain.agent("--shutdown-timeout", 600) as agent:
            agent.publishing()
            broker.stop(signal.SIGKILL)
            arrived = delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
            agent.signal(signal.SIGTERM)
            assert agent.saw("stopping", 60)
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 1
            assert agent.logs(
                "second signal: ending at once, the next run counts what is unpublished"
            )
        broker.start()
        arrived += delivered(chain.sender, chain.receiver, PACKETS, "-f", FLOWS)
        found = sums(chain.close())
    assert (found["seen"], found["lost"]) == (arrived, 0)
    assert found["published"] + found["killed"] >= arrived
    assert found["published"] >= PACKETS

"""An agent with a spool: what the broker does not take waits on disk, and nothing is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, delivered, records_of
from support.spooling import (
    FLOWS,
    PACKETS,
    in_spool,
    losses_of,
    published,
    runs_of,
    segments,
    spooling,
)
from support.traffic import wait_until

if TYPE_CHECKING:
    from pathlib import Path


MANY_FLOWS = 20_011


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


def test_the_broker_comes_after_the_agent(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert agent.saw("spooling", 20)
        broker.start()
        assert agent.saw("spool_drained", 40)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
        # Once each, however often it was tried.
        assert len(agent.logs("kafka_unreachable")) == len(agent.logs("kafka_reachable")) == 1
    (run,) = runs_of(broker.url)
    assert published(run) == arrived
    assert segments(spool) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_outage_longer_than_a_delivery_may_take(wire, broker_factory, spool, how):
    sender, receiver = wire
    broker = broker_factory()
    options = ("-X", "delivery.timeout.ms=3000", "-X", "request.timeout.ms=1000")
    with Agent(*spooling(receiver, broker.url, spool, *options)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.stop(how)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        # After 10 s: by then those in memory have gone to the disk.
        assert agent.saw("spool_waiting", 60), agent.output()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.start()
        assert agent.saw("spool_drained", 40)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (run,) = runs_of(broker.url)
    assert published(run) == arrived
    assert segments(spool) == []


def test_a_run_that_ends_without_the_broker_is_published_by_the_next(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.stop(signal.SIGKILL)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert agent.saw("spooling", 30)
        agent.stop()
        assert agent.logs("spool_left")
        (ended,) = agent.logs("ended")
        assert ended["spooled_records"] > 0
        assert ended["failed_records"] == ended["in_doubt_records"] == 0
    broker.start()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        assert agent.saw("spool_drained", 40)
        assert agent.logs("spool_found")
        again = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    first, second = runs_of(broker.url)
    assert published(first) == arrived
    assert published(second) == again
    assert segments(spool) == []


def test_an_agent_killed_in_the_outage_and_in_the_drain(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert wait_until(lambda: in_spool(spool) == arrived, 30), in_spool(spool)
        written = len(segments(spool))
        # Counters of all of it.
        assert wait_until(lambda: len(agent.logs("spool_waiting")) > 0, 30)
        agent.signal(signal.SIGKILL)
        agent.wait()
    assert len(segments(spool)) >= written
    broker.start()
    # Slow: it is killed in the middle.
    with Agent(*spooling(receiver, broker.url, spool, "--spool-rate", 300)) as agent:
        assert agent.saw("spool_found", 30)
        assert wait_until(lambda: drained(broker.url) > 100, 60)
        agent.signal(signal.SIGKILL)
        agent.wait()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        assert agent.saw("spool_drained", 60), agent.output()
        again = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    first, *_, last = runs_of(broker.url, killed=2)
    assert published(first) == arrived
    assert published(last) == again


def drained(url: str) -> int:
    """Flow records in the topic."""
    return len(records_of(url, "flowstream.flows"))


def test_a_spool_that_is_too_small_loses_the_oldest_records(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    # With a partition for each topic segments have 1 MiB.
    options = ("--spool-size", "12MB", "--partitions", 1)
    with Agent(*spooling(receiver, broker.url, spool, *options)) as agent:
        agent.publishing()
        arrived = 0
        while not agent.logs("spool_records_lost"):
            arrived += delivered(sender, receiver, PACKETS, "-f", MANY_FLOWS)
        last = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.start()
        assert agent.saw("spool_drained", 60)
        agent.stop()
    (run,) = runs_of(broker.url)
    (interface,) = run["interfaces"]
    assert losses_of(run).keys() == {"spool_full"}
    assert interface["seen"]["packets"] == arrived + last
    # The youngest records are there.
    assert interface["flows"]["packets"] >= last


def test_a_second_agent_on_one_spool_is_refused(pairs, spool):
    (_, first), (_, second) = pairs
    url = "kafka://127.0.0.1:9"
    with Agent(*spooling(first, url, spool)) as agent:
        agent.publishing()
        with Agent(*spooling(second, url, spool)) as other:
            assert other.wait() == 1
            assert other.output().splitlines()[-1] == (
                f"flowstream: error: spool {spool}: process {agent.pid} is writing there; "
                "stop it or use another directory"
            )
            assert not other.logs("attached")
        agent.stop()


def test_a_signal_while_it_waits_for_the_broker_loses_nothing(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*spooling(receiver, broker.url, spool, "--topic-prefix", "before")) as agent:
        assert agent.saw("attached", 30)
        arrived = delivered(sender, receiver, FLOWS, "-f", FLOWS)
        agent.stop()
    broker.start()
    # The topics of the earlier run are not those of this one.
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        assert agent.saw("spool_drained", 60)
        agent.stop()
    (interface,) = audited(broker.url, "before")
    assert interface["flows"]["packets"] == interface["seen"]["packets"] == arrived
    assert [published(run) for run in runs_of(broker.url)] == [0]

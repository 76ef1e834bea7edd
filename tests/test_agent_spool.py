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

from flowstream.errors import MissingTopicError

if TYPE_CHECKING:
    from pathlib import Path


MANY_FLOWS = 20_011


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


def test_an_agent_killed_in_the_outage_and_in_the_drain(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert wait_until(lambda: in_spool(spool) == arrived), in_spool(spool)
        written = len(segments(spool))
        # Counters of all of it.
        assert wait_until(lambda: len(agent.logs("spool_waiting")) > 0)
        agent.signal(signal.SIGKILL)
        agent.wait()
    assert len(segments(spool)) >= written
    broker.start()
    # Slow: it is killed in the middle.
    with Agent(*spooling(receiver, broker.url, spool, "--spool-rate", 300)) as agent:
        assert agent.saw("spool_found", 60)
        assert wait_until(lambda: drained(broker.url) > 100)
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
    """Flow records in the topic, which may not be made yet."""
    try:
        return len(records_of(url, "flowstream.flows"))
    except MissingTopicError:
        return 0


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


def test_a_signal_while_it_waits_for_the_broker_loses_nothing(wire, broker_factory, spool):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*spooling(receiver, broker.url, spool, "--topic-prefix", "before")) as agent:
        assert agent.saw("attached", 60)
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

"""An agent with a spool: what the broker does not take waits on disk, and nothing is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.agent import Agent, audit, delivered, on
from support.traffic import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.net import Interface

PACKETS = 100_003
FLOWS = 1_009
OPTIONS = ("--interval", 0.2, "--format", "msgpack")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


def spooling(
    device: Interface, url: str, spool: Path, *options: str | float
) -> tuple[str | float, ...]:
    return (*on(device), "--sink", url, "--spool", str(spool), *OPTIONS, *options)


def runs_of(url: str) -> list[dict[str, Any]]:
    """Runs in the topics, the oldest first; their books must hold."""
    status, result = audit(url)
    problems = [run["problems"] for run in result["runs"]]
    assert (status, problems) == (0, [[]] * len(problems))
    return sorted(result["runs"], key=lambda run: run["agent_epoch"])


def published(run: dict[str, Any]) -> int:
    """Packets in the flow records of a run with one interface; nothing may be lost of it."""
    (interface,) = run["interfaces"]
    assert interface["difference"] == {"packets": 0, "l2_bytes": 0}
    lost = {cause: loss for cause, loss in interface["losses"].items() if loss["records"]}
    assert lost == {}
    assert interface["flows"]["packets"] == interface["seen"]["packets"]
    return int(interface["flows"]["packets"])


def segments(spool: Path) -> list[Path]:
    return sorted(spool.glob("*/*.log"))


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
    with Agent(*spooling(receiver, broker.url, spool)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.stop(how)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        # A line each 10 s: by then those in memory have gone to the disk.
        assert wait_until(lambda: len(agent.logs("spool_waiting")) > 3, 60), agent.output()
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

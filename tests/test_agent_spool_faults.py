"""An agent with a spool, and disks that fail and brokers that refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker.acls import allow
from broker.secure import READER, SecureBroker
from support import failing_fsync, kafka_config
from support.agent import Agent, delivered
from support.disks import small_disk
from support.spooling import FLOWS, PACKETS, losses_of, published, runs_of, segments, spooling
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY_FLOWS = 20_011


def test_a_full_disk_is_counted_and_harms_nothing_that_is_there(wire, broker_factory, tmp_path):
    sender, receiver = wire
    broker = broker_factory()
    broker.stop()
    with small_disk(tmp_path / "disk", "4m") as disk:
        spool = disk / "spool"
        with Agent(*spooling(receiver, broker.url, spool)) as agent:
            agent.publishing()
            first = delivered(sender, receiver, PACKETS, "-f", FLOWS)
            assert agent.saw("spooling", 60)
            arrived = first
            while not agent.logs("spool_write_failed"):
                arrived += delivered(sender, receiver, PACKETS, "-f", MANY_FLOWS)
            assert agent.process.poll() is None
            broker.start()
            assert agent.saw("spool_drained", 60), agent.output()
            arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
            agent.stop()
            # Again, where a small write found room in between.
            errors = {each["error"] for each in agent.logs("spool_write_failed")}
            assert errors == {"No space left on device"}
    (run,) = runs_of(broker.url)
    (interface,) = run["interfaces"]
    assert losses_of(run).keys() == {"io_error"}
    assert interface["seen"]["packets"] == arrived
    assert interface["flows"]["packets"] >= first


def test_a_disk_that_confirms_nothing_is_refused_at_the_start(wire, broker_factory, tmp_path):
    _, receiver = wire
    broker = broker_factory()
    broker.stop()
    spool = tmp_path / "spool"
    with Agent(*spooling(receiver, broker.url, spool, "--duration", 1)) as agent:
        assert agent.wait() == 0
    lost = (sys.executable, str(Path(failing_fsync.__file__)))
    with Agent(*spooling(receiver, broker.url, spool), before=lost) as agent:
        assert agent.wait() == 1
        assert agent.output().splitlines()[-1].startswith(f"flowstream: error: spool {spool}: ")
        assert not agent.logs("attached")
    assert segments(spool)


@pytest.fixture
def secure() -> Iterator[SecureBroker]:
    """A broker whose rights the test changes."""
    with SecureBroker() as one:
        yield one


def test_records_wait_until_the_agent_may_write(wire, secure, tmp_path):
    sender, receiver = wire
    # As an administrator makes the topics, and forgets a right.
    with Agent(*spooling(receiver, secure.url, tmp_path / "first", "--duration", 1)) as agent:
        assert agent.wait() == 0
    config = kafka_config.write(tmp_path / "kafka.toml", secure.settings("BARE", READER))
    options = ("--kafka-config", config)
    url = secure.url_of("BARE")
    with Agent(*spooling(receiver, url, tmp_path / "spool", *options)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert agent.saw("spooling", 60), agent.output()
        assert wait_until(lambda: told(agent, "user reader is not authorised")), agent.output()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        allow(secure, READER, "*", "WRITE")
        assert agent.saw("spool_drained", 120), agent.output()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    *_, run = runs_of(secure.url)
    assert published(run) == arrived


def told(agent: Agent, text: str) -> bool:
    return any(text in str(line) for line in agent.logs())

"""An agent whose broker goes away: it goes on, and counts undelivered records."""

from __future__ import annotations

import signal

import pytest
from broker.acls import ANYBODY, AUTHORIZING, allow, deny
from support.agent import Agent, audited, delivered, last_counters, on

PACKETS = 100_003
FLOWS = 1_009
DEADLINE_S = 5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_broker_that_comes_back(wire, broker_factory, how):
    sender, receiver = wire
    broker = broker_factory()
    with Agent(*on(receiver), "--sink", broker.url, "--interval", 0.2) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.stop(how)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert agent.process.poll() is None
        broker.start()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(broker.url)
    lost = sum(loss["packets"] for loss in interface["losses"].values())
    lost += interface["difference"]["packets"]  # in doubt, and not published
    assert interface["seen"]["packets"] == arrived
    assert interface["flows"]["packets"] + lost == arrived
    assert interface["flows"]["packets"] >= PACKETS


def test_an_outage_longer_than_the_queue_is_counted(wire, broker_factory):
    sender, receiver = wire
    broker = broker_factory()
    options = ("--format", "msgpack", "--interval", 0.2, "--max-flows", 4096)
    with Agent(*on(receiver), "--sink", broker.url, *options) as agent:
        agent.publishing()
        broker.stop(signal.SIGKILL)
        # More records than the sink, the queue and the ring buffers hold together.
        arrived = delivered(sender, receiver, 1_000_003, "-f", 500_009)
        broker.start()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(broker.url)
    lost = {cause: loss["packets"] for cause, loss in interface["losses"].items()}
    assert interface["seen"]["packets"] == arrived
    in_doubt = interface["difference"]["packets"]
    assert interface["flows"]["packets"] + sum(lost.values()) + in_doubt == arrived
    assert lost["overflow_lost"] > 0
    assert last_counters(broker.url).stages["flows"].acknowledged > 0


def test_a_broker_gone_for_good(wire, broker_factory):
    sender, receiver = wire
    broker = broker_factory()
    with Agent(*on(receiver), "--sink", broker.url, "--shutdown-timeout", DEADLINE_S) as agent:
        agent.publishing()
        delivered(sender, receiver, PACKETS, "-f", FLOWS)
        broker.stop(signal.SIGKILL)
        delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop(status=1)
        assert agent.logs("the final counters could not be published: the end looks unclean")
        (ended,) = agent.logs("ended")
    assert ended["seen_packets"] == 2 * PACKETS
    # What was sent just before the end of the broker is in doubt, all else failed.
    assert ended["failed_records"] > 0
    assert ended["flow_records"] + ended["failed_records"] + ended["in_doubt_records"] >= FLOWS


def test_no_broker_at_the_start(wire, broker_factory):
    _, receiver = wire
    broker = broker_factory()
    broker.stop()
    with Agent(*on(receiver), "--sink", broker.url) as agent:
        assert agent.wait() == 1
        last = agent.output().splitlines()[-1]
        assert last.startswith("flowstream: error: no Kafka broker")
        assert broker.address in last
        assert "Traceback" not in agent.output()


def test_a_topic_that_must_no_longer_be_written(wire, broker_factory):
    sender, receiver = wire
    broker = broker_factory(**AUTHORIZING)
    with Agent(*on(receiver), "--sink", broker.url, "--interval", 0.2) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        allow(broker, ANYBODY, "flowstream.flows", "ALL")
        deny(broker, ANYBODY, "flowstream.flows", "WRITE")
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        # In order, with status 0: the final counters are published.
        agent.stop()
        failed = agent.logs("kafka_records_failed")
        assert not agent.logs("kafka_producer_given_up")
    assert {each["cause"] for each in failed} == {"not_authorised"}
    assert "right to write" in failed[0]["remedy"]
    (interface,) = audited(broker.url)
    assert interface["seen"]["packets"] == arrived
    losses = {cause: loss["packets"] for cause, loss in interface["losses"].items()}
    assert losses.pop("not_authorised") >= PACKETS
    assert not any(losses.values())
    assert interface["difference"]["packets"] == 0

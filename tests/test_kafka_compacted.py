"""Topics from which the broker deletes records that nobody replaces: run, pcap and check warn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.agent import Agent, on
from support.outcomes import Account, new_topic
from support.pcap_runs import in_child

from flowstream.check import check
from flowstream.check.finding import Status
from flowstream.kafka.sink import KafkaSink

CAPTURE = Path(__file__).parent / "traces" / "mapi.pcap"
REASON = "cleanup.policy=compact deletes records of all flows but the latest"
REMEDY = "set cleanup.policy=delete"

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prefix(broker) -> str:
    """Prefix of topics that are compacted."""
    name = new_topic()
    settings = {"cleanup.policy": "compact"}
    sink = KafkaSink(broker.cluster, Account(), partitions=1, topic_settings=settings)
    await sink.start([f"{name}.{stream}" for stream in ("flows", "new_flows", "counters")])
    await sink.close(5)
    return name


async def test_check(broker, prefix):
    findings = await asyncio.to_thread(lambda: list(check((), broker.url, prefix)))
    # The latest counters of a key have all that the earlier ones had.
    assert [
        (each.subject, each.text, each.remedy)
        for each in findings
        if each.status is Status.WARN and each.subject.startswith("topic ")
    ] == [(f"topic {prefix}.{stream}", REASON, REMEDY) for stream in ("flows", "new_flows")]


async def test_run(broker, prefix, wire):
    options = ("--sink", broker.url, "--topic-prefix", prefix, "--duration", 2)
    with Agent(*on(wire.receiver), *options) as agent:
        assert agent.wait() == 0
        warned = agent.logs("kafka_topic_compacted")
    assert [each["topic"] for each in warned] == [f"{prefix}.flows", f"{prefix}.new_flows"]
    assert {(each["reason"], each["remedy"]) for each in warned} == {(REASON, REMEDY)}


async def test_pcap(broker, prefix):
    command = ["pcap", str(CAPTURE), "--sink", broker.url, "--topic-prefix", prefix]
    status, errors = in_child(command)
    assert status == 0, errors
    assert f"{prefix}.flows" in errors
    assert REASON in errors

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
    by_subject = {each.subject: each for each in findings}
    for stream in ("flows", "new_flows"):
        finding = by_subject[f"topic {prefix}.{stream}"]
        assert finding.status is Status.WARN
        assert finding.text == f"1 partitions; {REASON}"
        assert finding.remedy == REMEDY
    # The latest counters of a key have all that the earlier ones had.
    assert by_subject[f"topic {prefix}.counters"].status is Status.OK


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

"""Topics from which the broker deletes records that nobody replaces: all commands warn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.agent import Agent, on
from support.outcomes import Account, new_topic
from support.pcap_runs import in_child
from support.traffic import wait_until

from flowstream.audit import audit
from flowstream.check import check
from flowstream.check.finding import Status
from flowstream.host.selection import Selection
from flowstream.kafka.sink import KafkaSink
from flowstream.recording import record

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
    findings = await asyncio.to_thread(
        lambda: list(check(Selection(["!*"]), (), broker.url, prefix))
    )
    # The latest counters of a key have all that the earlier ones had.
    assert [
        (each.subject, each.text, each.remedy)
        for each in findings
        if each.status is Status.WARN and each.subject.startswith("topic ")
    ] == [(f"topic {prefix}.{stream}", REASON, REMEDY) for stream in ("flows", "new_flows")]


async def test_run(broker, prefix, wire):
    options = ("--sink", broker.url, "--topic-prefix", prefix)
    with Agent(*on(wire.receiver), *options) as agent:
        agent.publishing()
        assert wait_until(lambda: len(agent.logs("kafka_topic_compacted")) >= 2), agent.output()
        agent.stop()
        warned = agent.logs("kafka_topic_compacted")
    assert [each["topic"] for each in warned] == [f"{prefix}.flows", f"{prefix}.new_flows"]
    assert {(each["reason"], each["remedy"]) for each in warned} == {(REASON, REMEDY)}


@pytest.fixture
async def published(broker, prefix) -> str:
    """URL of a cluster with compacted topics that have the records of a capture."""
    command = ["pcap", str(CAPTURE), "--sink", broker.url, "--topic-prefix", prefix]
    status, errors = in_child(command)
    assert status == 0, errors
    return broker.url


async def test_audit_and_record_say_the_same(published, prefix, tmp_path):
    expected = [
        f"topic {prefix}.{stream}: {REASON}; {REMEDY}" for stream in ("flows", "new_flows")
    ]
    assert (await audit(published, prefix)).warnings == expected
    warnings: list[str] = []
    topics = [f"{prefix}.{stream}" for stream in ("flows", "new_flows")]
    await record(published, topics, tmp_path / "copy", warn=warnings.append)
    assert warnings == expected


async def test_pcap(broker, prefix):
    command = ["pcap", str(CAPTURE), "--sink", broker.url, "--topic-prefix", prefix]
    status, errors = in_child(command)
    assert status == 0, errors
    assert f"{prefix}.flows" in errors
    assert REASON in errors

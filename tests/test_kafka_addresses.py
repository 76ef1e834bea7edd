"""Brokers that answer and cannot be used: the message says what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from support.outcomes import Account, new_topic

from flowstream.errors import SinkError
from flowstream.kafka.limits import Limits
from flowstream.kafka.sink import KafkaSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker

LONG = "a" * 300


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flowstream", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("advertised", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1 (connection refused)"),
        (f"{LONG}.example:9092", f"{LONG}.example:9092 (does not resolve to an address)"),
        (
            "no-such-host.invalid:9092",
            "no-such-host.invalid:9092 (does not resolve to an address)",
        ),
    ],
)
def test_an_advertised_address_that_nobody_can_reach_is_named(
    broker_factory: Callable[..., Broker], advertised: str, expected: str
) -> None:
    broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://{advertised}"})
    wanted = f"{broker.address} answers, but its advertised.listeners names {expected}"
    status, output = run("check", "--sink", broker.url)
    assert status == 1
    address, _, reason = expected.rpartition(" (")
    assert f"fail  broker {address}: {reason[:-1]} -> correct advertised.listeners" in output
    for arguments in (
        ("run", "-i", "lo", "--mode", "generic", "--sink", broker.url),
        ("audit", broker.url),
    ):
        status, output = run(*arguments)
        assert status == 1
        assert wanted in output, (arguments, output)


@pytest.mark.anyio
async def test_a_topic_without_partitions(broker: Broker, monkeypatch) -> None:
    async def none(self: AIOKafkaProducer, topic: str) -> set[int]:
        return set()

    monkeypatch.setattr(AIOKafkaProducer, "partitions_for", none)
    sink = KafkaSink(broker.cluster, Account(), partitions=1, limits=Limits(connect_timeout=5))
    topic = new_topic()
    with pytest.raises(SinkError, match=f"topic {topic}: the cluster shows no partition"):
        await sink.start([topic])
    await sink.close(1)

"""An outage at full rate: memory, time to drain, latency of announcements meanwhile"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from broker import Broker
from broker.topics import create
from confluent_kafka.admin import NewTopic
from faults.scene import PARTITIONS
from support.agent import audit
from support.traffic import load, wait_until

from flowstream.records import FlowRecord, decode
from flowstream.source import open_source
from soak.measure import resident
from soak.stage import stage

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from faults.scene import Scene

LIVE_PORT: Final = 7777
LIVE_PPS: Final = 199
"""New flows per second, whose announcements are measured."""
MOST_RESIDENT: Final = 250 << 20
LONGEST_DRAIN_S: Final = 60.0
LONGEST_LATENCY_S: Final = 1.0
BEFORE_S: Final = 8
STEP_S: Final = 10
PATIENCE_S: Final = 300


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--seconds", type=float, default=60, help="default %(default)s")
    parser.add_argument("--rate", type=int, default=50_000, help="records per second, %(default)s")
    parser.add_argument("--format", default="msgpack", help="default %(default)s")


def run(options: argparse.Namespace) -> list[str]:
    """Stop the broker, start it again, and measure until nothing waits."""
    with stage(Broker()) as scene:
        broker, sender = scene.cluster, scene.wire.sender
        _create(broker, f"{scene.prefix}.new_flows")
        scene.start("--interval", "1", "--format", options.format)
        # As many flows as packets a second: each gives a record every second.
        with (
            resident(scene.agent.pid) as samples,
            load(sender, options.rate, options.rate),
        ):
            time.sleep(BEFORE_S)
            broker.stop(signal.SIGKILL)
            _wait(options.seconds, samples)
            before = len(scene.agent.logs("kafka_reachable"))
            broker.start()
            back = time.monotonic()
            print("the broker is back", flush=True)
            assert wait_until(
                lambda: len(scene.agent.logs("kafka_reachable")) > before, PATIENCE_S
            )
            since_ns = time.time_ns()
            with load(sender, 1 << 32, LIVE_PPS, LIVE_PORT):
                assert wait_until(lambda: not scene.waits(), PATIENCE_S), scene.agent.output()
                until_ns, took = time.time_ns(), time.monotonic() - back
        scene.stop()
        latencies = list(_latencies(scene, since_ns, until_ns))
        _, result = audit(broker.url, scene.prefix)
        (ended,) = result["runs"]
        return _report(ended, max(samples), took, latencies)


def _wait(seconds: float, samples: list[int]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        print(f"outage, {left:.0f} s left: {samples[-1] >> 20} MiB resident", flush=True)
        time.sleep(min(left, STEP_S))


def _create(broker: Broker, topic: str) -> None:
    """Make the topic whose messages have the time at which the broker wrote them."""
    create(broker, NewTopic(topic, PARTITIONS, config={"message.timestamp.type": "LogAppendTime"}))


def _latencies(scene: Scene, since_ns: int, until_ns: int) -> Iterator[float]:
    """Seconds from the first packet of a live flow until the broker has its announcement."""
    import asyncio

    async def read() -> list[float]:
        found = []
        async for batch in open_source(scene.cluster.url, [f"{scene.prefix}.new_flows"]).batches():
            for message in batch:
                record = decode(message.value)
                assert isinstance(record, FlowRecord)
                begin = record.time_flow_start_ns
                if record.dst_port == LIVE_PORT and since_ns <= begin <= until_ns:
                    found.append(message.timestamp_ms / 1e3 - begin / 1e9)
        return found

    yield from asyncio.run(read())


def _report(ended: dict[str, Any], most: int, took: float, latencies: list[float]) -> list[str]:
    (interface,) = ended["interfaces"]
    difference = interface["difference"]["packets"]
    lost = sum(loss["records"] for loss in interface["losses"].values())
    late = float(np.percentile(latencies, 99)) if latencies else float("inf")
    rows = [
        ("packets seen", interface["seen"]["packets"], None),
        ("packets unaccounted for", difference, 0),
        ("records lost", lost, 0),
        ("resident memory at most, MiB", most >> 20, MOST_RESIDENT >> 20),
        ("drained after the broker's return, s", round(took, 1), LONGEST_DRAIN_S),
        ("announcements while draining", len(latencies), None),
        ("their latency, p50, s", round(float(np.median(latencies or [np.inf])), 3), None),
        ("their latency, p99, s", round(late, 3), LONGEST_LATENCY_S),
    ]
    for name, value, limit in rows:
        print(f"{name:38} {value:>14,}" + (f"   at most {limit:,}" if limit is not None else ""))
    problems = list(ended["problems"])
    return problems + [name for name, value, limit in rows if limit is not None and value > limit]

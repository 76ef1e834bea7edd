"""SIGKILL at random moments under load, with the broker away and back"""

from __future__ import annotations

import random
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from broker import Broker
from support.agent import records_of
from support.traffic import load

from flowstream.records import decode
from flowstream.segments.source import SegmentSource
from soak.background import background
from soak.stage import stage

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from faults.scene import Scene

FLOWS: Final = 503
LONGEST_S: Final = 3.0
"""After its start an agent lives at most this long."""
AWAY_S: Final = (3.0, 12.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--kills", type=int, default=200, help="default %(default)s")
    parser.add_argument("--rate", type=int, default=5_000, help="packets per second, %(default)s")
    parser.add_argument("--seed", type=int, default=2026, help="of the moments, %(default)s")


def run(options: argparse.Namespace) -> list[str]:
    """Kill, then let a run drain what is left, and audit all of them."""
    rng = random.Random(options.seed)
    with stage(Broker()) as scene:
        broker = scene.cluster
        owed: set[tuple[str, int, int]] = set()
        with load(scene.wire.sender, FLOWS, options.rate), outages(broker, options.seed):
            for n in range(1, options.kills + 1):
                scene.start()
                time.sleep(rng.random() * LONGEST_S)
                scene.kill()
                found = set(_spooled(scene.spool))
                owed |= found
                print(f"kill {n}: {len(found):,} records on disk, broker", end=" ")
                print("up" if broker.running else "down", flush=True)
        scene.start()
        scene.drained()
        scene.traffic()
        scene.stop()
        published = set(_published(scene))
        print(f"{len(owed):,} records were seen on disk, {len(published):,} are in the topics")
        scene.explained(killed=options.kills)
        lost = len(owed - published)
        return [f"{lost:,} records that were on disk are not in the topics"] if lost else []


@contextmanager
def outages(broker: Broker, seed: int) -> Iterator[None]:
    """The broker goes and comes, by its own clock; at the end it is there."""
    rng = random.Random(seed + 1)

    def work(end: threading.Event) -> None:
        while not end.wait(rng.uniform(*AWAY_S)):
            broker.stop(rng.choice([signal.SIGTERM, signal.SIGKILL]))
            end.wait(rng.uniform(*AWAY_S))
            broker.start()

    with background("outages", work):
        yield


def _spooled(spool: Path) -> Iterator[tuple[str, int, int]]:
    """Topic, run and seq of every record on disk; a segment may only end in a torn batch."""
    source = SegmentSource(spool)
    for topic, partition in source.partitions():
        for messages in source.read_partition(topic, partition):
            for message in messages:
                record = decode(message.value)
                yield topic, record.agent_epoch, record.seq
    assert all("cut short" in warning for warning in source.warnings), source.warnings


def _published(scene: Scene) -> Iterator[tuple[str, int, int]]:
    for stream in ("flows", "new_flows", "counters"):
        topic = f"{scene.prefix}.{stream}"
        for record in records_of(scene.cluster.url, topic):
            yield topic, record.agent_epoch, record.seq

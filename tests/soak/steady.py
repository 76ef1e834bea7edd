"""A varying rate with restarts of brokers and a change of leaders: nothing may grow"""

from __future__ import annotations

import math
import signal
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.cluster import Cluster
from support.traffic import wait_until

from soak.measure import resident
from soak.stage import stage

if TYPE_CHECKING:
    import argparse

    from faults.scene import Scene

FLOWS: Final = 2_003
STEP_S: Final = 5
WAVES: Final = 5
"""How often the rate rises and falls in each third."""
GROWTH: Final = 0.05


class State(NamedTuple):
    """What a process holds at a quiet moment."""

    descriptors: int
    threads: int
    tasks: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--minutes", type=float, default=30, help="default %(default)s")
    parser.add_argument(
        "--rate", type=int, default=20_000, help="most packets per second, %(default)s"
    )


def run(options: argparse.Namespace) -> list[str]:
    """Run through three thirds, with the same events in each."""
    with stage(Cluster()) as scene:
        scene.before = (sys.executable, "-m", "soak.agent")
        scene.start("--interval", "1")
        third = options.minutes * 60 / 3
        thirds = [_third(scene, third, options.rate, n) for n in range(3)]
        scene.stop()
        scene.explained()
        return _missed(thirds)


def _third(scene: Scene, seconds: float, rate: int, number: int) -> tuple[list[int], State]:
    """Traffic, and one broker that is restarted; returns resident octets each second."""
    begin = time.monotonic()
    end = begin + seconds
    restart = threading.Timer(seconds / 3, _restart, (scene.cluster, number))
    restart.start()
    with resident(scene.agent.pid) as samples:
        while time.monotonic() < end:
            wave = WAVES * (time.monotonic() - begin) / seconds
            share = (1 - math.cos(2 * math.pi * wave)) / 2
            pps = max(int(rate * share), 1_000)
            scene.traffic(pps * STEP_S, FLOWS, "-p", pps)
            left = max(end - time.monotonic(), 0)
            print(f"third {number + 1}, {left:.0f} s left: {pps:,} packets/s, ", end="")
            print(f"{samples[-1] >> 20} MiB resident", flush=True)
        restart.join()
        scene.drained()
    return samples, _state(scene)


def _restart(cluster: Cluster, number: int) -> None:
    node = number + 1
    cluster.nodes[node].stop((signal.SIGTERM, signal.SIGKILL)[number % 2])
    cluster.start([node])
    if number == 1:
        cluster.elect_preferred()


def _state(scene: Scene) -> State:
    process = Path(f"/proc/{scene.agent.pid}")
    told = len(scene.agent.logs("tasks"))
    scene.agent.signal(signal.SIGUSR1)
    assert wait_until(lambda: len(scene.agent.logs("tasks")) > told)
    tasks = scene.agent.logs("tasks")[-1]["names"]
    state = State(
        len([*(process / "fd").iterdir()]), len([*(process / "task").iterdir()]), len(tasks)
    )
    print(f"quiet: {state}", flush=True)
    return state


def _missed(thirds: list[tuple[list[int], State]]) -> list[str]:
    _, (second, before), (last, after) = thirds
    growth = statistics.mean(last) / statistics.mean(second) - 1
    print(f"resident memory of the last third against the second's: {growth:+.1%}")
    missed = [f"resident memory changed by {growth:+.1%}"] if abs(growth) > GROWTH else []
    missed += [
        f"{name}: {now} at the end, {then} after two thirds"
        for name, then, now in zip(State._fields, before, after, strict=True)
        if now > then
    ]
    return missed

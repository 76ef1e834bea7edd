"""Interfaces created and deleted at random with traffic: each observed at once, nothing grows"""

from __future__ import annotations

import random
import socket
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from pyroute2 import IPRoute
from support.agent import Agent, audit
from support.net import namespace
from support.traffic import wait_until

from soak.background import background
from soak.bpf_objects import Objects
from soak.measure import resident

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Iterator

    from support.net import Namespace

STEPS_PER_S: Final = 50
"""How often an interface is created or deleted, at most: the kernel takes its time."""
BURST: Final = 64
BURSTS_PER_S: Final = 100
FLOWS: Final = 23
LONGEST_S: Final = 1.0
"""Most between an interface's being up and its being observed."""
GROWTH: Final = 0.05
STEP_S: Final = 10
PATIENCE_S: Final = 60


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--seconds", type=float, default=300, help="default %(default)s")
    parser.add_argument("--links", type=int, default=300, help="about so many at a time, 300")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")


def run(options: argparse.Namespace) -> list[str]:
    """Run the agent on a namespace whose interfaces come and go."""
    with (
        tempfile.TemporaryDirectory(prefix="flowstream-soak-") as name,
        namespace() as here,
        namespace() as there,
    ):
        url = f"file:{name}/recording"
        where = ("-i", "far*", "--netns", there.name, "--sink", url, "--format", "msgpack")
        with (
            Agent(*where, "--interval", "1", "--counters-period", "10") as agent,
            Links(here, there) as links,
        ):
            agent.publishing()
            objects = Objects(agent)
            before = objects.held()
            with resident(agent.pid) as samples:
                _churn(options, links, objects, samples)
                links.delete_all()
                assert wait_until(lambda: _settled(agent, links), PATIENCE_S), agent.output()
            # What the kernel frees, it frees in its own time.
            wait_until(lambda: objects.held() == before and not objects.leaked(), PATIENCE_S)
            after, leaked = objects.held(), objects.leaked()
            agent.stop()
            missed = _latencies(agent, links)
        missed += [f"{each} of the kernel is left" for each in sorted(leaked)]
        missed += [f"held before: {before}, after: {after}"] if after != before else []
        missed += _memory(samples)
        print(f"sent {links.sent:,} packets; {len(leaked)} objects leaked; holds {after}")
        return missed + _balance(*audit(url))


@dataclass
class _Life:
    up: float
    deleted: float = float("inf")


@dataclass
class Links:
    """veth pairs that are created and deleted, with packets to all of them."""

    here: Namespace
    there: Namespace
    lives: dict[str, _Life] = field(default_factory=dict)
    sent: int = 0

    def __enter__(self) -> Self:
        with self.here.entered():
            self._near = IPRoute()
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with self.there.entered():
            self._far = IPRoute()
        self.names: list[str] = []
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self._near, self._far, self._socket):
            each.close()

    def create(self) -> None:
        """Create a pair, both ends up."""
        name = f"far{len(self.lives)}"
        near = name.replace("far", "near")
        peer = {"ifname": near, "net_ns_fd": self.here.name}
        self._far.link("add", ifname=name, kind="veth", peer=peer)
        for route, each in ((self._near, near), (self._far, name)):
            (index,) = route.link_lookup(ifname=each)
            if route is self._far:
                self.lives[name] = _Life(time.time())
            route.link("set", index=index, state="up")
        self.names.append(name)

    def delete(self, name: str) -> None:
        """Delete a pair."""
        self.names.remove(name)
        self.lives[name].deleted = time.time()
        self._far.link("del", ifname=name)

    def delete_all(self) -> None:
        """Delete all pairs."""
        for name in [*self.names]:
            self.delete(name)

    @contextmanager
    def traffic(self, rng: random.Random) -> Iterator[None]:
        """Send bursts of packets to one pair after the other."""

        def work(end: threading.Event) -> None:
            while not end.wait(1 / BURSTS_PER_S):
                # It may go meanwhile.
                name = rng.choice(self.names or ["none"]).replace("far", "near")
                for _ in range(BURST):
                    try:
                        self._socket.sendto(_packet(rng.randrange(FLOWS)), (name, 0))
                    except OSError:
                        break
                    self.sent += 1

        with background("traffic", work):
            yield


def _packet(port: int) -> bytes:
    """UDP packet from 192.0.2.1 and ``port`` to 192.0.2.2, without checksums."""
    ethernet = bytes(12) + b"\x08\x00"
    ip = b"\x45\x00\x00\x1c" + bytes(4) + b"\x40\x11\x00\x00\xc0\x00\x02\x01\xc0\x00\x02\x02"
    return ethernet + ip + port.to_bytes(2) + b"\x00\x35\x00\x08\x00\x00"


def _churn(
    options: argparse.Namespace, links: Links, objects: Objects, samples: list[int]
) -> None:
    rng = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    told = time.monotonic()
    with links.traffic(random.Random(options.seed + 1)):
        while (now := time.monotonic()) < end:
            count = len(links.names)
            # About as many are created as deleted once there are so many.
            if rng.random() < 1 - 0.5 * (count / options.links) ** 4:
                links.create()
            else:
                links.delete(rng.choice(links.names))
            objects.note()
            if now >= told:
                told = now + STEP_S
                print(f"{end - now:.0f} s left: {count} interfaces, ", end="")
                print(f"{len(links.lives):,} so far, {samples[-1] >> 20} MiB", flush=True)
            time.sleep(rng.uniform(0, 2 / STEPS_PER_S))


def _settled(agent: Agent, links: Links) -> bool:
    """Whether the agent has noticed that all are gone."""
    gone = {each["interface"] for each in agent.logs("interface_gone")}
    return gone >= {each["interface"] for each in agent.logs("attached")} and not links.names


def _latencies(agent: Agent, links: Links) -> list[str]:
    """Seconds from an interface's being up to its being observed; what was observed late."""
    attached = {
        each["interface"]: datetime.fromisoformat(each["timestamp"]).timestamp()
        for each in agent.logs("attached")
    }
    found, missed = [], []
    for name, life in links.lives.items():
        late = attached.get(name, float("inf")) - life.up
        if late <= LONGEST_S:
            found.append(late)
        elif life.deleted - life.up > LONGEST_S:
            missed.append(f"{name} was observed after {late:.3f} s")
    p50, p99, most = np.percentile(found or [np.nan], [50, 99, 100])
    print(
        f"{len(links.lives):,} interfaces, {len(found):,} observed, after "
        f"{p50:.3f} s (p50), {p99:.3f} s (p99), {most:.3f} s (most)"
    )
    failed = agent.logs("attach_failed")
    return missed + [f"attach_failed: {each['error']}" for each in failed[:3]]


def _memory(samples: list[int]) -> list[str]:
    third = len(samples) // 3
    growth = statistics.mean(samples[-third:]) / statistics.mean(samples[third:-third]) - 1
    print(f"resident memory: {max(samples) >> 20} MiB at most, last third {growth:+.1%}")
    return [f"resident memory grew by {growth:+.1%}"] if growth > GROWTH else []


def _balance(status: int, result: dict[str, Any]) -> list[str]:
    (ended,) = result["runs"]
    interfaces = ended["interfaces"]
    seen = sum(each["seen"]["packets"] for each in interfaces)
    off = sum(abs(each["difference"]["packets"]) for each in interfaces)
    open_ = sum(not each["final"] for each in interfaces)
    print(f"audit: status {status}, {seen:,} packets, difference {off}, {open_} without an end")
    return [*ended["problems"]] + ([f"difference {off}"] if off else [])

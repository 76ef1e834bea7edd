"""A fleet on this machine: agents on veth pairs, traffic, a broker, and a Prometheus."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from broker import Broker, free_ports
from support.agent import Agent, on
from support.net import namespace, veth_pair
from support.prometheus import Prometheus
from support.traffic import TESTS, flood, load, replay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.net import Wire

DURATION_S = 300
SHOWN_S = 240
LOADS = {"db-1": (211, 401), "edge-1": (4_001, 2_003), "web-1": (1_009, 907), "web-2": (607, 503)}
"""Packets per second and flows of each host."""
LOSSY, CUT_OFF, DOWN = "web-2", "db-1", "web-3"
SAMPLES = ("http_09.pcap", "dns-edns-ecs.pcap", "5-pings.pcap", "proxy.pcap", "sctp.pcap")
TOO_MANY = 400_009
"""Flows that a table of 16 entries and a ring buffer have no room for."""


class Scene(NamedTuple):
    """What is looked at, from a moment in Unix seconds on."""

    prometheus: Prometheus
    broker: Broker
    since: float


@contextmanager
def scene(spools: Path) -> Iterator[Scene]:
    """Let the fleet run for a while: one host loses packets, one has no broker, one is down."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker())
        *ports, unused, no_broker = free_ports(len(LOADS) + 2)
        targets = {host: f"127.0.0.1:{port}" for host, port in zip(LOADS, ports, strict=True)}
        wires, agents = {}, {}
        for host in LOADS:
            here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
            wire = stack.enter_context(veth_pair(here, there, names=("peer", "eth0")))
            sink = f"kafka://127.0.0.1:{no_broker}" if host == CUT_OFF else broker.url
            agent = Agent(
                *on(wire.receiver),
                *("--sink", sink, "--metrics", targets[host], "--spool", str(spools / host)),
                *("--interval", 2, "--direction", "both", "--hook", "tcx"),
                *("--max-flows", 16 if host == LOSSY else 131_072),
            )
            wires[host], agents[host] = wire, stack.enter_context(agent).publishing()
        prometheus = stack.enter_context(Prometheus({**targets, DOWN: f"127.0.0.1:{unused}"}))
        prometheus.ready()
        _traffic(stack, wires, agents[LOSSY])
        yield Scene(prometheus, broker, time.time() - SHOWN_S)


def _traffic(stack: ExitStack, wires: dict[str, Wire], lossy: Agent) -> None:
    for host, (pps, flows) in LOADS.items():
        stack.enter_context(load(wires[host].sender, flows, pps, port=443))
        stack.enter_context(load(wires[host].receiver, 53, pps // 3, port=53, through_tc=True))
    _captures(wires["edge-1"])
    # While it is stopped the kernel's buffers fill.
    lossy.signal(signal.SIGSTOP)
    flood(wires[LOSSY].sender, "-n", TOO_MANY, "-f", TOO_MANY)
    lossy.signal(signal.SIGCONT)
    _captures(wires["edge-1"])


def _captures(wire: Wire) -> None:
    end = time.monotonic() + DURATION_S / 2
    while time.monotonic() < end:
        for name in SAMPLES:
            replay(wire.sender, TESTS / "traces" / name, 200)
        time.sleep(3)

"""Restarts under load with --pin, in order or by SIGKILL: every packet is explained"""

from __future__ import annotations

import contextlib
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker import Broker
from support.bpffs import mounted
from support.chains import Chain, directory, generations, sums
from support.net import namespace, veth_pair
from support.traffic import load, wait_until

from soak.kills import outages

if TYPE_CHECKING:
    import argparse

FLOWS: Final = 2_003
LONGEST_S: Final = 2.0
"""After its start an agent lives at most this long."""
DRAINED_S: Final = 600.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--restarts", type=int, default=50, help="default %(default)s")
    parser.add_argument("--rate", type=int, default=100_000, help="packets/s, %(default)s")
    parser.add_argument("--kill", action="store_true", help="by SIGKILL at random instants")
    parser.add_argument(
        "--outages", action="store_true", help="with a spool, and a broker that goes and comes"
    )
    parser.add_argument("--seed", type=int, default=2026, help="of the moments, %(default)s")


def run(options: argparse.Namespace) -> list[str]:
    """Restart the agent, then let one close the chain, and compare its sums."""
    with (
        tempfile.TemporaryDirectory(prefix="flowstream-soak-") as name,
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as wire,
        mounted(Path(name) / "bpf") as bpffs,
        directory(bpffs, "restarts") as pins,
        contextlib.ExitStack() as stack,
    ):
        Path(name).chmod(0o755)
        if options.outages:
            broker = stack.enter_context(Broker())
            chain = Chain(wire, broker.url, pins, "--spool", f"{name}/spool")
        else:
            broker = None
            chain = Chain(wire, f"file:{name}/recording", pins, "--format", "msgpack")
        with chain.agent() as agent:
            agent.publishing()
            agent.stop()
        with (
            load(wire.sender, FLOWS, options.rate),
            outages(broker, options.seed) if broker else contextlib.nullcontext(),
        ):
            _restart(chain, options)
        if broker:
            _drain(chain)
        chain.quiet()
        return _missed(chain, kill=options.kill)


def _restart(chain: Chain, options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    for n in range(1, options.restarts + 1):
        with chain.agent() as agent:
            if options.kill:
                time.sleep(rng.random() * LONGEST_S)
                agent.signal(signal.SIGKILL)
                agent.wait()
            else:
                agent.publishing()
                time.sleep(rng.random() * LONGEST_S / 4)
                agent.stop()
        print(f"restart {n}: {chain.arrived:,} packets arrived", flush=True)


def _drain(chain: Chain) -> None:
    """Let an agent publish all that waits, now that there is a broker."""
    with chain.agent() as agent:
        agent.publishing()
        assert wait_until(lambda: len(generations(chain.pins)) == 1, DRAINED_S), agent.output()
        waiting = agent.logs("spool_found")
        assert wait_until(lambda: not waiting or bool(agent.logs("spool_drained")), DRAINED_S)
        agent.stop()


def _missed(chain: Chain, *, kill: bool) -> list[str]:
    runs = chain.close()
    arrived, found = chain.arrived, sums(runs)
    print(f"{len(runs)} runs, {arrived:,} packets arrived: {found}")
    missed = []
    if found["seen"] != arrived:
        missed.append(f"{found['seen']:,} packets were seen")
    unexplained = arrived - found["published"] - found["lost"]
    if not 0 <= unexplained <= found["killed"]:
        missed.append(f"{unexplained:,} packets are unexplained")
    if not kill and found["published"] != arrived:
        missed.append(f"{found['published']:,} packets were published")
    return missed

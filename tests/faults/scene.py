"""The agent, its broker and its spool, to which a fault happens."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from support.agent import Agent, audit, delivered, on
from support.mock_cluster import MockCluster
from support.traffic import wait_until

from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.net import Wire

# Primes.
PACKETS = 10_007
FLOWS = 101
PATIENCE_S = 90.0
# Between two attempts.
PAUSE_S = 0.2
PARTITIONS = 6
OPTIONS = ("--format", "msgpack", "--interval", 0.2, "--shutdown-timeout", 30)
SPOOLING = "^spooling "
"""Pattern of the log: records begin to wait on disk."""
# Options of mount; IMAGE is made when needed.
TMPFS = ("-t", "tmpfs", "-o", "size=2m", "tmpfs")
EXT4 = ("-o", "loop", "IMAGE")
IMAGE_OCTETS = 16 << 20
UNCLEAN = re.compile(
    r"did not end cleanly|of a run that has no end|no counters record to compare them with"
)


class Fault(NamedTuple):
    """A row of the suite.

    ``cause`` is entered when the fault begins and left when it is over. ``cluster`` names a
    kind of ``clusters.KINDS``. Nothing may be lost but by the causes ``lost``, each of
    which must occur. ``says`` are patterns of which each must match a line of the log: an
    event, then its fields. ``options`` are the agent's. With ``at_start`` the agent starts
    while it lasts, by the cause or after it; without ``before`` there is no traffic before
    it. ``killed`` is the number of runs that end without final counters. ``once``: no record
    is in the topics twice. ``in_ci``: it is part of ``make test``, not only of ``make
    faults``. ``disk``: how the file system is mounted on which the spool is, if it is one
    of its own.
    """

    name: str
    cluster: str
    cause: Callable[[Scene], AbstractContextManager[object]]
    lost: frozenset[str] = frozenset()
    says: tuple[str, ...] = ()
    options: tuple[str | float, ...] = ()
    at_start: bool = False
    before: bool = True
    killed: int = 0
    once: bool = False
    in_ci: bool = False
    disk: tuple[str, ...] = ()


@dataclass
class _Run:
    """A run of the agent, and how many packets reached its program."""

    agent: Agent
    arrived: int = 0
    log: list[str] = field(default_factory=list)

    @property
    def left(self) -> bool:
        """Whether it left records in the spool."""
        return any(line.startswith("spool_left") for line in self.log)


@dataclass
class Scene:
    """What a cause may use: the cluster, the directory, and the agent of the moment."""

    cluster: Any
    wire: Wire
    directory: Path
    options: tuple[str | float, ...] = ()
    prefix: str = field(default_factory=lambda: f"fault{time.time_ns()}")
    # In front of the command.
    before: tuple[str, ...] = ()
    runs: list[_Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.disk = self.directory / "disk"
        self.disk.mkdir()
        self.spool = self.disk / "spool"
        self._mount: tuple[str, ...] = ()
        if isinstance(self.cluster, MockCluster):
            # It creates none by itself in the way in which the agent asks for it.
            for stream in Stream:
                self.cluster.create_topic(f"{self.prefix}.{stream}", PARTITIONS)

    def mount(self, options: tuple[str, ...]) -> None:
        """Put the spool on a file system of its own."""
        image = self.directory / "image"
        if "IMAGE" in options and not image.exists():
            with image.open("wb") as file:
                file.truncate(IMAGE_OCTETS)
            subprocess.run(["mkfs.ext4", "-q", image], check=True)
        self._mount = options
        named = [str(image) if option == "IMAGE" else option for option in options]
        subprocess.run(["mount", *named, self.disk], check=True)
        self.disk.chmod(0o755)

    def remount(self) -> None:
        """Repair the file system, while no agent runs."""
        subprocess.run(["umount", self.disk], check=True)
        # A copy: namespaces of other processes may keep the faulty mount for a while.
        image = self.directory / "image"
        shutil.copyfile(image, self.directory / "copy")
        (self.directory / "copy").rename(image)
        self.mount(self._mount)

    @property
    def agent(self) -> Agent:
        """The agent of the moment."""
        return self.runs[-1].agent

    @property
    def flows(self) -> str:
        """The topic of flows."""
        return f"{self.prefix}.flows"

    def start(self, *options: str | float, sink: str = "") -> None:
        """Start the agent; returns when it publishes or spools."""
        place = ("--sink", sink or self.cluster.url, "--spool", str(self.spool))
        named = (*place, "--topic-prefix", self.prefix)
        given = (*on(self.wire.receiver), *named, *OPTIONS, *self.options, *options)
        self.runs.append(_Run(Agent(*given, before=self.before)))
        self.agent.publishing()

    def traffic(self, packets: int = PACKETS, flows: int = FLOWS, *options: str | float) -> None:
        """Send packets, each of which the program sees; options are the generator's."""
        run = self.runs[-1]
        run.arrived += delivered(*self.wire, packets, "-f", flows, *options)

    def traffic_until(
        self, true: Callable[[], bool], packets: int = PACKETS, flows: int = FLOWS
    ) -> None:
        """Send packets until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, self.agent.output()
            self.traffic(packets, flows)
            time.sleep(PAUSE_S)

    def wait(self, pattern: str) -> None:
        """Wait until a line of the agent's log, with its event in front, matches."""
        assert wait_until(
            lambda: any(re.search(pattern, line) for line in _lines(self.agent)), PATIENCE_S
        ), f"no {pattern!r} in:\n{self.agent.output()}"

    def waits(self) -> bool:
        """Whether records wait in the spool."""
        return len(self.agent.logs("spooling")) + len(self.agent.logs("spool_found")) > len(
            self.agent.logs("spool_drained")
        )

    def drained(self) -> None:
        """Wait until nothing waits in the spool."""
        assert wait_until(lambda: not self.waits(), PATIENCE_S), self.agent.output()

    def stop(self, status: int = 0) -> None:
        """End the agent in order."""
        self.agent.stop(status=status)
        self._ended()

    def kill(self) -> None:
        """End the agent by SIGKILL."""
        self.agent.signal(signal.SIGKILL)
        self.agent.wait()
        self._ended()

    def _ended(self) -> None:
        run = self.runs[-1]
        run.log = _lines(run.agent)
        run.agent.close()

    def close(self) -> None:
        """End what runs."""
        for run in self.runs:
            run.agent.close()
        if self._mount:
            subprocess.run(["umount", "--lazy", self.disk], check=True)

    def explained(
        self,
        lost: frozenset[str] = frozenset(),
        says: tuple[str, ...] = (),
        *,
        killed: int = 0,
        once: bool = False,
    ) -> None:
        """Check that the audit accounts for every packet, and the outcome as a fault has it."""
        for pattern in says:
            lines = [line for run in self.runs for line in run.log]
            assert any(re.search(pattern, line) for line in lines), (pattern, lines)
        status, result = audit(self.cluster.url, self.prefix)
        found = sorted(result["runs"], key=lambda run: run["agent_epoch"])
        assert len(found) == len(self.runs)
        causes: set[str] = set()
        unclean = 0
        for run, audited in zip(self.runs, found, strict=True):
            (interface,) = audited["interfaces"]
            if not interface["final"]:
                unclean += 1
                assert [each for each in audited["problems"] if not UNCLEAN.search(each)] == []
                continue
            assert audited["problems"] == []
            assert interface["difference"] == {"packets": 0, "l2_bytes": 0}
            assert interface["seen"]["packets"] == run.arrived
            causes |= {cause for cause, loss in interface["losses"].items() if loss["records"]}
            if once:
                assert sum(topic["duplicates"] for topic in audited["topics"]) == 0
        assert (frozenset(causes), unclean) == (lost, killed)
        assert status == int(killed > 0)
        assert list(self.spool.glob("*/*.log")) == []


def fill(path: Path) -> None:
    """Write a file that takes all the room there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def _lines(agent: Agent) -> list[str]:
    """The agent's log: each line is an event and its fields."""
    return [f"{record.pop('event')} {record}" for record in agent.logs()]


def run(fault: Fault, scene: Scene) -> None:
    """Let the fault happen, with traffic before, during and after it."""
    if not fault.at_start:
        scene.start()
        if fault.before:
            scene.traffic()
    with fault.cause(scene):
        if not scene.runs:
            scene.start()
        scene.traffic()
    scene.traffic()
    scene.drained()
    scene.stop()
    while scene.runs[-1].left:
        # What was under way when it ended is on disk: the next run publishes it.
        scene.start()
        scene.drained()
        scene.stop()
    scene.explained(fault.lost, fault.says, killed=fault.killed, once=fault.once)

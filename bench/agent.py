"""The agent as a process: time until it is attached, memory and CPU time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from broker import Broker
from support.net import namespace, veth_pair
from support.traffic import flood

from bench.measure import Row, Samples, Table, cpu_s, interleave
from flowstream.host.privileges import user_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.net import Interface

IDLE_S: Final = 5.0
LOAD_S: Final = 10
FLOWS_PER_S: Final = 100_000
DEADLINE_S: Final = 30.0
ATTACHED_MS: Final = 300
IDLE_MB: Final = 60
LOADED_MB: Final = 250
MEASURED: Final = (("file", "json"), ("file", "msgpack"), ("kafka", "json"), ("kafka", "msgpack"))


def measure() -> Iterator[Table]:
    """Start-up, then memory and CPU time when idle and under load, of real agents on a veth."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="flowstream-bench-"))
        place = stack.enter_context(namespace())
        near, far = stack.enter_context(veth_pair(place))
        # The agent gives up root and writes below it.
        Path(directory).chmod(0o755)
        sinks = {"file": f"file:{directory}/recording", "kafka": broker.url}
        yield _start_up(near, sinks)
        yield from _load(near, far, sinks)


class Agent:
    """A running agent that observes ``interface``; its log is read as it is written.

    A context manager: it kills an agent that is still running at the end.
    """

    def __init__(self, interface: Interface, sink: str, *options: str) -> None:
        command = [sys.executable, "-m", "flowstream", "run", "--netns", interface.namespace.name]
        command += ["-i", interface.name, "--sink", sink, "--log-format", "json", *options]
        # As the default may be, but without the advice to create a user.
        command += ["--user", user_name(None)]
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=_installed()
        )
        self.pid = self._process.pid

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for the log record ``event``; RuntimeError with the log if the agent ends first."""
        assert self._process.stderr is not None
        others = []
        for line in self._process.stderr:
            message: dict[str, Any] = json.loads(line)
            if message["event"] == event:
                return message
            if message["level"] in ("warning", "error"):
                print(f"agent: {line.strip()}", file=sys.stderr)
            others.append(line)
        raise RuntimeError(f"the agent ended without {event!r}:\n{''.join(others)}")

    def stop(self) -> dict[str, Any]:
        """Stop it by SIGTERM and return its summary."""
        self._process.send_signal(signal.SIGTERM)
        summary = self.wait_for("ended")
        if self._process.wait(DEADLINE_S) != 0:
            raise RuntimeError(f"the agent ended with status {self._process.returncode}")
        return summary

    def memory_mb(self, which: str) -> float:
        """A value of /proc/PID/status in MB: VmRSS is the resident memory, VmHWM its peak."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == which:
                return int(value.split()[0]) * 1024 / 1e6
        raise RuntimeError(f"no {which} in the agent's status")

    def cpu_s(self) -> float:
        """CPU time of all its threads so far."""
        return cpu_s(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _installed() -> dict[str, str]:
    """The environment, but with compiled modules, as after an installation."""
    return {name: it for name, it in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _start_up(near: Interface, sinks: dict[str, str]) -> Table:
    def interpreter(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=_installed())
        return (time.perf_counter() - began) * 1000

    def attached(sink: str, event: str) -> float:
        with Agent(near, sink) as agent:
            agent.wait_for(event)
            elapsed = (time.perf_counter() - agent.began) * 1000
            if event == "attached":
                # It may still be on its way to the sink: then it is stopped after that.
                agent.wait_for("publishing")
            agent.stop()
        return elapsed

    cases: dict[str, Callable[[], float]] = {
        "Python that does nothing, to its end": lambda: interpreter("pass"),
        "Python that imports numpy, to its end": lambda: interpreter("import numpy"),
    }
    for name, sink in sinks.items():
        cases[f"{name}: from exec to attached"] = lambda sink=sink: attached(sink, "attached")  # type: ignore[misc]
    for name, sink in sinks.items():
        cases[f"{name}: from exec to publishing"] = lambda sink=sink: attached(sink, "publishing")  # type: ignore[misc]
    samples = interleave(cases)
    base = next(iter(samples.values()))
    return Table(
        "Start-up of the agent from the embedded object",
        "ms",
        "Python that does nothing",
        [
            Row(name, taken, base, ATTACHED_MS if name.endswith("attached") else None)
            for name, taken in samples.items()
        ],
    )


def _load(near: Interface, far: Interface, sinks: dict[str, str]) -> Iterator[Table]:
    memory = Table("Memory of the agent, one sample each", "MB", "idle, file, json")
    cpu = Table(
        f"CPU time of the agent at {FLOWS_PER_S:,} flows per second, {LOAD_S} s, interval 1 s",
        "% of a CPU",
        "file, json",
    )
    for number, (name, record_format) in enumerate(MEASURED):
        url = f"{sinks[name]}-{number}" if name == "file" else sinks[name]
        label = f"{name}, {record_format}"
        options = ("--interval", "1", "--format", record_format, "--topic-prefix", f"b{number}")
        with Agent(near, url, *options) as agent:
            agent.wait_for("publishing")
            time.sleep(IDLE_S)
            idle = agent.memory_mb("VmRSS")
            before, began = agent.cpu_s(), time.perf_counter()
            packets = FLOWS_PER_S * LOAD_S
            flood(far, "-n", packets, "-f", FLOWS_PER_S, "-p", FLOWS_PER_S)
            share = (agent.cpu_s() - before) / (time.perf_counter() - began)
            loaded, peak = agent.memory_mb("VmRSS"), agent.memory_mb("VmHWM")
            summary = agent.stop()
        memory.rows += [
            _row(memory, f"idle, {label}", idle, IDLE_MB),
            _row(memory, f"under load, {label}", loaded, LOADED_MB),
            _row(memory, f"peak, {label}", peak, LOADED_MB),
        ]
        cpu.rows.append(_row(cpu, label, share * 100))
        cpu.notes.append(
            f"{label}: {summary['seen_packets']:,} packets, {summary['flow_records']:,} flow and "
            f"{summary['new_flow_records']:,} new_flow records, "
            f"{summary['failed_records']:,} failed"
        )
    yield memory
    yield cpu


def _row(table: Table, name: str, value: float, target: float | None = None) -> Row:
    own = Samples((value,))
    return Row(name, own, table.rows[0].samples if table.rows else own, target)

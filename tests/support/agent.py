"""The agent as users run it: a process, controlled by options and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flowstream.records import CountersRecord, FlowRecord, decode
from flowstream.source import open_source
from support.traffic import flood, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.net import Interface

FLOWSTREAM = (sys.executable, "-m", "flowstream")
BEFORE_6_6 = (sys.executable, str(Path(__file__).with_name("without_tcx.py")))
"""Put before a command, lets it find a kernel without TCX."""
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 120.0
NEW_FLOWS = 500_009
UNDER_WAY = 50_000
"""Octets that the kernel may hold of a sender's packets: fewer than fill the queue of a veth."""
QUIET_S = 0.5


class Agent:
    """``flowstream run`` with these options; killed at the end of the block if it still runs."""

    def __init__(
        self, *options: str | float, before: tuple[str, ...] = (), stdout: Path | None = None
    ) -> None:
        self.peak = 0
        # Closed with the agent.
        self._log = tempfile.NamedTemporaryFile("w+b", prefix="flowstream-")  # noqa: SIM115
        with Path(stdout or os.devnull).open("wb") as output:
            self.process = subprocess.Popen(
                [*before, *FLOWSTREAM, "run", *map(str, options)],
                stdout=output,
                stderr=self._log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """Its standard error so far."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def logs(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log records so far; of one kind, when ``event`` is given."""
        lines = (line for line in self.output().splitlines() if line.startswith("{"))
        records = [json.loads(line) for line in lines]
        return [each for each in records if event in (None, each["event"])]

    def publishing(self) -> Self:
        """Wait until it has attached, dropped its privileges and publishes."""
        assert self.saw("publishing", START_TIMEOUT_S), self.output()
        return self

    def saw(self, event: str, timeout: float) -> bool:
        """Wait for a log record, as long as the process lives."""
        wait_until(lambda: bool(self.logs(event)) or self.process.poll() is not None, timeout)
        return bool(self.logs(event))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = END_TIMEOUT_S) -> int:
        """Wait for its end and return the exit status; notes its largest resident memory."""
        deadline = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"still running:\n{self.output()}"
            for peak in self.status("VmHWM"):
                self.peak = int(peak.split()[0]) * 1024
            time.sleep(0.01)
        return status

    def stop(self, timeout: float = END_TIMEOUT_S, status: int = 0) -> None:
        """Stop it by SIGTERM; it must end in order, with the exit status ``status``."""
        self.signal(signal.SIGTERM)
        assert self.wait(timeout) == status, self.output()
        assert "Traceback" not in self.output(), self.output()

    def status(self, field: str) -> set[str]:
        """The values that its threads have for a field of /proc/PID/task/TID/status."""
        values = set()
        for path in Path(f"/proc/{self.pid}/task").glob("*/status"):
            # The thread may have just ended.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                text = path.read_text(encoding="ascii", errors="replace")
                values.update(re.findall(rf"^{field}:[ \t]*(.*?)[ ]*$", text, re.MULTILINE))
        return values

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def on(*interfaces: Interface) -> list[str]:
    """Options for these interfaces, which are in one namespace."""
    (namespace,) = {interface.namespace.name for interface in interfaces}
    names = [option for interface in interfaces for option in ("-i", interface.name)]
    return [*names, "--netns", namespace]


def flowstream(
    *arguments: str | Path, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*before, *FLOWSTREAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def audit(url: str, prefix: str = "flowstream") -> tuple[int, dict[str, Any]]:
    """``flowstream audit``: its exit status and its result."""
    done = flowstream("audit", url, "--topic-prefix", prefix, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def audited(url: str, prefix: str = "flowstream") -> list[dict[str, Any]]:
    """Interfaces of the one run, by index; every packet of them must be accounted for.

    Only packets in doubt may differ.
    """
    status, result = audit(url, prefix)
    problems = [run["problems"] for run in result["runs"]]
    assert (status, result["holds"], problems) == (0, True, [[]])
    (run,) = result["runs"]
    for interface in run["interfaces"]:
        assert interface["final"]
        for unit, difference in interface["difference"].items():
            assert 0 <= difference <= sum(each[unit] for each in interface["in_doubt"].values())
    return sorted(run["interfaces"], key=lambda interface: interface["if_index"])


def records_of(url: str, topic: str) -> list[FlowRecord | CountersRecord]:
    """Read a topic as any consumer would."""

    async def read() -> list[FlowRecord | CountersRecord]:
        source = open_source(url, [topic])
        return [decode(each.value) async for batch in source.batches() for each in batch]

    return asyncio.run(read())


def carried(url: str, prefix: str = "flowstream") -> Counter[int]:
    """Packets by interface, summed over the flow records without the audit."""
    packets: Counter[int] = Counter()
    for record in records_of(url, f"{prefix}.flows"):
        assert isinstance(record, FlowRecord)
        packets[record.if_index] += record.packets
    return packets


def last_counters(url: str) -> CountersRecord:
    (final,) = finals_of(url)
    return final


def finals_of(url: str) -> list[CountersRecord]:
    """Final counters records, in their order."""
    counters = records_of(url, "flowstream.counters")
    return [each for each in counters if isinstance(each, CountersRecord) and each.final]


def delivered(sender: Interface, receiver: Interface, packets: int, *options: str | float) -> int:
    """Flood ``packets`` out of ``sender``; return their number once the receiver has them all.

    The sender waits for the receiver, so that no queue overflows. By the end the
    receiving CPU has worked off its queues: a program has seen every packet.
    """
    dropped, received = sender.statistic("tx_dropped"), receiver.statistic("rx_packets")
    report = flood(sender, "-n", packets, "-w", UNDER_WAY, *options)
    assert (report["sent"], sender.statistic("tx_dropped")) == (packets, dropped)

    def settled() -> bool:
        return receiver.statistic("rx_packets") - received == packets and not _backlog()

    assert wait_until(settled), f"{receiver.statistic('rx_packets') - received} != {packets}"
    return packets


def flood_for(
    seconds: float,
    sender: Interface,
    receiver: Interface,
    until: Callable[[], object] = lambda: True,
) -> int:
    """Send packets that each are a new flow for a time, and until something is so.

    Returns how many reached the program.
    """
    arrived, port = 0, 1
    end = time.monotonic() + seconds
    while time.monotonic() < end or not until():
        # A destination port of its own makes the flows of each round new.
        options = ("-f", NEW_FLOWS, "-P", port)
        arrived, port = arrived + delivered(sender, receiver, NEW_FLOWS, *options), port + 1
    return arrived


def quiet(receiver: Interface) -> int:
    """Wait until nothing is under way of senders that have ended; return ``rx_packets``."""
    received = -1
    while received != (now := receiver.statistic("rx_packets")) or _backlog():
        received = now
        time.sleep(QUIET_S)
    return received


def _backlog() -> int:
    """Packets in the CPUs' queues, which a generic program has not seen yet."""
    lines = Path("/proc/net/softnet_stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[11], 16) for line in lines)

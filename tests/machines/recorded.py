"""``flowstream run`` into a recording, and what is in it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from check import equal

from flowstream.errors import SourceError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import CountersRecord, decode
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FLOWSTREAM: Final = (sys.executable, "-B", "-m", "flowstream")
TIMEOUT_S: Final = 900
"""For anything: without the C code of aiokafka, as on s390x, a record takes 1 ms to write."""


def wait_until(true: Callable[[], object], doing: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, f"timed out: {doing}"
        time.sleep(0.05)


class Agent:
    """``flowstream run`` into a recording, restricted as it is to be."""

    def __init__(self, *options: str | int, sink: str | None = None) -> None:
        self.sink = sink or f"file:{tempfile.mkdtemp()}"
        Path(self.sink.removeprefix("file:")).chmod(0o777)
        self._log = Path(tempfile.mkstemp()[1])
        command = [*FLOWSTREAM, "run", "--sink", self.sink, "--format", "msgpack"]
        command += ["--interval", "1", "--shutdown-timeout", str(TIMEOUT_S - 60)]
        command += map(str, options)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_until(lambda: self._ended() or '"publishing"' in self.log(), "starting")
        assert self.process.poll() is None, self.log()
        assert "attacher_calls_not_restricted" not in self.log(), self.log()
        (attacher,) = self._children()
        equal("user", status(self.process.pid, "Uid").split(), ["65534"] * 4)
        equal("capabilities", status(self.process.pid, "CapPrm"), "0" * 16)
        equal("user of the attacher", status(attacher, "Uid").split(), ["65534"] * 4)
        equal("seccomp of the attacher", status(attacher, "Seccomp"), "2")

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def _children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in path.read_text().split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._ended():
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM, status: int = 0) -> None:
        self.process.send_signal(number)
        wait_until(self._ended, f"the end after {number.name}")
        assert self.process.returncode == status, self.log()
        assert "Traceback" not in self.log(), self.log()


def status(pid: int, name: str) -> str:
    """A field of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
    assert found
    return found[1]


def values(sink: str, topic: str) -> list[bytes]:
    async def read() -> list[bytes]:
        source = open_source(sink, [f"flowstream.{topic}"])
        return [each.value async for batch in source.batches() for each in batch]

    return asyncio.run(read())


def records_of(sink: str, topic: str = "flows") -> NDArray[np.void]:
    """Records in MessagePack, which is the kernel's form."""
    return np.frombuffer(b"".join(values(sink, topic)), FLOW_RECORD)


def total(sink: str) -> int:
    """Packets in the flow records so far; 0 before the first."""
    try:
        return int(records_of(sink)["packets"].sum())
    except SourceError:
        return 0


def finals(sink: str) -> list[CountersRecord]:
    records = map(decode, values(sink, "counters"))
    return [each for each in records if isinstance(each, CountersRecord) and each.final]


def audit(sink: str) -> None:
    """See that every packet of a recording is accounted for, but for those in doubt."""
    done = subprocess.run(
        [*FLOWSTREAM, "audit", sink, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for run in json.loads(done.stdout)["runs"]:
        for each in run["interfaces"]:
            doubt = sum(part["packets"] for part in each["in_doubt"].values())
            equal("final", each["final"], True)
            assert 0 <= each["difference"]["packets"] <= doubt, each

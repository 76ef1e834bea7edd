"""Memory of other processes."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """How a command ended: its exit status, what it wrote, its largest memory in octets."""

    status: int
    text: str
    peak: int


def measured(arguments: list[str], output: Path) -> Measured:
    """Run flowstream with these arguments to its end; ``output`` is the file that it writes to."""
    command = [sys.executable, "-m", "flowstream", *arguments]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        peak = _peak_memory(process)
    return Measured(process.returncode, output.read_text(encoding="utf-8"), peak)


def _peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return its largest resident memory in octets.

    ru_maxrss would not do: it includes the tests' own process, from before the exec.
    """
    peak = 0
    while process.poll() is None:
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) << 10
        time.sleep(0.02)
    return peak

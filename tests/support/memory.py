"""Memory of other processes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


def peak_memory(process: subprocess.Popen[bytes]) -> int:
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

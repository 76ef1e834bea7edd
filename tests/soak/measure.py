"""What a process takes, sampled."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from soak.background import background

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator


@contextmanager
def resident(pid: int, period_s: float = 1.0) -> Iterator[list[int]]:
    """Resident octets of a process, a sample at once and one each period."""
    samples = [_resident(pid)]

    def work(end: threading.Event) -> None:
        while not end.wait(period_s):
            samples.append(_resident(pid))

    with background("resident", work):
        yield samples


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (kilobytes,) = re.findall(r"^VmRSS:\s*([0-9]+) kB$", text, re.MULTILINE)
    return int(kilobytes) * 1024

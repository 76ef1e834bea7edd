"""Bounds of time and memory for one input."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CPU_SECONDS: Final = 5.0
MEMORY: Final = 256 << 20


def run(target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target; AssertionError when it takes too much time or memory."""
    began, peak = time.process_time(), _peak()
    target(data)
    seconds, grown = time.process_time() - began, _peak() - peak
    assert seconds < CPU_SECONDS, f"{seconds:.1f} s for {len(data)} octets"
    assert grown < MEMORY, f"{grown >> 20} MiB for {len(data)} octets"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

"""The kernel's packet clock and Unix time.

Programs stamp packets with CLOCK_BOOTTIME, which continues through suspend and
is never stepped. User space converts it by the offset at the moment of reading.
"""

from __future__ import annotations

import time
from typing import NamedTuple


class ClockPair(NamedTuple):
    """The same moment on both clocks, ns."""

    unix_ns: int
    boot_ns: int

    @property
    def offset_ns(self) -> int:
        """Unix time minus boot time."""
        return self.unix_ns - self.boot_ns


def now() -> ClockPair:
    """Read both clocks, boot time in the middle of two readings of Unix time."""
    before = time.time_ns()
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    after = time.time_ns()
    return ClockPair(before + (after - before) // 2, boot)

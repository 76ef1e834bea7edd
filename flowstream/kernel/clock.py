"""The kernel's packet clock and Unix time.

Programs stamp packets with CLOCK_BOOTTIME, which continues through suspend and
is never stepped. User space converts it by the offset at the moment of reading.
"""

from __future__ import annotations

import time

from flowstream.accounting.snapshot import Moment


def now() -> Moment:
    """Read both clocks, boot time in the middle of two readings of Unix time."""
    before = time.time_ns()
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    after = time.time_ns()
    return Moment(before + (after - before) // 2, boot)

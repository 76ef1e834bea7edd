"""The kernel's packet clock and Unix time.

Programs stamp packets with CLOCK_BOOTTIME, which continues through suspend and
is never stepped. User space converts it by the offset at the moment of reading.
In a time namespace (time_namespaces(7)) a process reads a shifted CLOCK_BOOTTIME;
programs always read that of the initial namespace.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from flowstream.accounting.snapshot import Moment
from flowstream.errors import KernelError

_PROCESS: Final = Path("/proc/self")
_NAMESPACES: Final = ("time", "time_for_children")


def namespace_offset_ns(process: Path = _PROCESS) -> int:
    """Return how far the boot time that a process reads is ahead of the kernel's, ns.

    ``process`` is its directory in /proc. Raises ``KernelError`` for a process that
    has called unshare(2) itself: the kernel tells only the offset of its children.
    """
    try:
        offsets = (process / "timens_offsets").read_text(encoding="ascii")
        own, childrens = ((process / "ns" / name).readlink() for name in _NAMESPACES)
    except FileNotFoundError:  # a kernel without time namespaces
        return 0
    if own != childrens:
        raise KernelError(
            "this process and its children are in different time namespaces, so the offset "
            "cannot be read: use unshare --fork"
        )
    found = re.search(r"^boottime\s+(-?\d+)\s+(\d+)$", offsets, re.MULTILINE)
    return int(found[1]) * 10**9 + int(found[2]) if found else 0


# Read before privileges are given up: /proc/self then belongs to root.
_OFFSET_NS: Final = namespace_offset_ns()


def now() -> Moment:
    """Read both clocks, boot time in the middle of two readings of Unix time."""
    before = time.time_ns()
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - _OFFSET_NS
    after = time.time_ns()
    return Moment(before + (after - before) // 2, boot)

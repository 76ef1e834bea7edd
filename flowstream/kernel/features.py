"""Capabilities of this kernel and process, for the loader and for `flowstream check`."""

from __future__ import annotations

import errno
import os
import re
import resource
from functools import cache
from pathlib import Path

from flowstream.errors import KernelError
from flowstream.host.kernel_version import kernel_version
from flowstream.kernel import libbpf, structures

MINIMUM = (5, 9)
"""XDP links (5.9); ring buffer, boot-time clock (5.8); batched map calls (5.6)."""
FRAGS = (5, 18)
"""XDP on packets in several buffers, and bpf_xdp_get_buff_len()."""
TCX = (6, 6)
"""Links at the TC hook."""
NO_MEMLOCK = (5, 11)
"""From this version on BPF memory is charged to the cgroup, not to RLIMIT_MEMLOCK."""

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""linux/capability.h."""
NEEDED = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
"""For loading and attaching; CAP_SYS_ADMIN stands for each of them."""


def kept_capabilities(*, netns: bool) -> int:
    """Capabilities, as a mask, for loading and attaching, also in other network namespaces."""
    kept = {*NEEDED, "CAP_SYS_ADMIN"} if netns or missing_by_name() else {*NEEDED}
    return sum(1 << CAPABILITIES[name] for name in kept)


@cache
def has_frags() -> bool:
    """Whether XDP reads packets in several buffers."""
    return kernel_version() >= FRAGS


@cache
def has_tcx() -> bool:
    """Whether programs are attached to the TC hook by links; else by filters (``clsact``)."""
    return kernel_version() >= TCX


def require_kernel() -> None:
    """Raise KernelError with both versions when the kernel is too old."""
    if kernel_version() < MINIMUM:
        raise KernelError(
            f"kernel {os.uname().release} is too old: "
            f"flowstream needs {MINIMUM[0]}.{MINIMUM[1]} or later"
        )


def require_unprivileged() -> None:
    """KernelError unless a process without capabilities may use the maps that it has opened.

    Before Linux 5.19 kernel.unprivileged_bpf_disabled forbids that, too; later it forbids
    creating alone.
    """
    try:
        # Nothing is open by this number: only the permission is asked for.
        libbpf.described(structures.MapInfo, -1)
    except KernelError as err:
        if err.errno == errno.EPERM:
            raise KernelError(
                "this kernel forbids bpf(2) to processes without capabilities: use Linux 5.19 "
                "or later, or sysctl kernel.unprivileged_bpf_disabled=0"
            ) from err


def effective_capabilities() -> set[str]:
    """Names, out of CAPABILITIES, that this process holds effectively."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError as err:
        raise KernelError("/proc is not mounted: it tells which capabilities there are") from err
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(found[1], 16) if found else 0
    return {name for name, bit in CAPABILITIES.items() if mask >> bit & 1}


def missing_by_name() -> list[str]:
    """Capabilities of ``NEEDED`` that this process lacks, whatever stands for them."""
    held = effective_capabilities()
    return [name for name in NEEDED if name not in held]


def missing_capabilities() -> list[str]:
    """Capabilities that loading and attaching need and this process lacks."""
    return [] if "CAP_SYS_ADMIN" in effective_capabilities() else missing_by_name()


def raise_memlock() -> None:
    """Remove RLIMIT_MEMLOCK on kernels that charge maps to it."""
    if kernel_version() >= NO_MEMLOCK:
        return
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    except (ValueError, OSError) as err:
        raise KernelError(
            f"RLIMIT_MEMLOCK cannot be removed ({err}): "
            "run as root, with CAP_SYS_RESOURCE, or with ulimit -l unlimited"
        ) from err

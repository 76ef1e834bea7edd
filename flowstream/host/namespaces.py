"""Enters network namespaces by their names in ``ip netns``."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h


@contextlib.contextmanager
def entered(name: str | None) -> Iterator[None]:
    """Move the calling thread into namespace ``name`` for the block; None changes nothing.

    Sockets and links opened inside stay in that namespace. Raises ``KernelError``
    when the namespace does not exist or the privilege to enter it is missing.
    """
    if name is None:
        yield
        return
    try:
        there = os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        found = ", ".join(sorted(path.name for path in DIRECTORY.glob("*"))) or "none"
        raise KernelError(f"no network namespace {name!r}; there are: {found}") from err
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set(there, f"entering network namespace {name}")
        try:
            yield
        finally:
            _set(own, "returning to the original network namespace")
    finally:
        os.close(there)
        os.close(own)


def _set(fd: int, action: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise KernelError(f"{action}: {os.strerror(number)}; needs root or CAP_SYS_ADMIN", number)

"""Enters network namespaces by the names that ``ip netns`` gives them."""

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
    """Put the calling thread into namespace ``name`` for the block; None stays where it is.

    What is opened inside (sockets, links) stays in that namespace. Raises
    KernelError when there is no such namespace or no privilege to enter it.
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
        _set(there, name)
        try:
            yield
        finally:
            _set(own, "of before")
    finally:
        os.close(there)
        os.close(own)


def _set(fd: int, name: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise KernelError(
            f"entering network namespace {name}: {os.strerror(number)}; "
            "needs root or CAP_SYS_ADMIN",
            number,
        )

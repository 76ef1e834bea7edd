"""Removes network namespaces that a killed process has left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.host.namespaces import DIRECTORY

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Mark a namespace as in use for the block; the mark ends with the process."""
    fd = os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sweep(names: re.Pattern[str]) -> list[str]:
    """Remove namespaces whose process is gone, and end the processes that run in them.

    ``names`` matches the names to consider; its first group is the id of the process that
    made the namespace, which is left alone while that process lives, held or not. Returns
    the names that were removed.
    """
    removed = []
    for path in sorted(DIRECTORY.glob("*")):
        found = names.fullmatch(path.name)
        if not found or Path("/proc", found[1]).exists() or _is_held(path):
            continue
        _end_processes(path)
        done = subprocess.run(
            ["ip", "netns", "delete", path.name], check=False, capture_output=True
        )
        if done.returncode == 0:
            removed.append(path.name)
    return removed


def _is_held(namespace: Path) -> bool:
    """Report whether a process holds it, in whatever PID namespace that process is."""
    try:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _end_processes(namespace: Path) -> None:
    """Kill the processes in a namespace, which nobody else ends once their parent is gone."""
    inside = namespace.stat()
    for process in Path("/proc").glob("[0-9]*"):
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            if os.path.samestat((process / "ns" / "net").stat(), inside):
                os.kill(int(process.name), signal.SIGKILL)

"""Findings about a directory of pins (``--pin``)."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.kernel.bpffs import OPEN_DIRECTORY, filesystem, listed
from flowstream.kernel.generation import is_epoch
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOUNT: Final = (
    "use a directory below /sys/fs/bpf; if nothing is mounted there: mount -t bpf bpf /sys/fs/bpf"
)


def check_pins(path: str) -> Iterator[Finding]:
    """Check whether programs can stay there, without making or locking anything."""
    try:
        yield _directory(path)
    except FileNotFoundError:
        yield _parent(path)
    except OSError as err:
        yield _refused(path, err)


def _directory(path: str) -> Finding:
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        if (found := filesystem(fd)) != "bpf":
            return Finding(Status.FAIL, path, f"is in a file system of type {found}", _MOUNT)
        runs = sum(map(is_epoch, listed(fd)))
        return Finding(Status.OK, path, f"has the pins of {counted(runs, 'run')}")
    finally:
        os.close(fd)


def _parent(path: str) -> Finding:
    above = Path(path).parent
    try:
        fd = os.open(above, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as err:
        return _refused(path, err)
    try:
        if (found := filesystem(fd)) != "bpf":
            return Finding(Status.FAIL, path, f"{above} has a file system of type {found}", _MOUNT)
        return Finding(Status.OK, path, "can be made")
    finally:
        os.close(fd)


def _refused(path: str, err: OSError) -> Finding:
    if err.errno == errno.EACCES:
        return Finding(Status.WARN, path, "cannot be looked into", "run check as root")
    return Finding(Status.FAIL, path, err.strerror or "unknown error", _MOUNT)

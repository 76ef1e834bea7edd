"""Findings about a directory of pins (``--pin``)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.check.finding import Finding, Status
from flowstream.errors import KernelError
from flowstream.kernel.bpffs import (
    OPEN_DIRECTORY,
    SHARED,
    Owner,
    filesystem,
    is_shared,
    listed,
    remedy,
)
from flowstream.kernel.generation import Generation, is_epoch
from flowstream.kernel.pinned_link import PinnedLink
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_pins(path: str) -> Iterator[Finding]:
    """Check whether programs can stay there, without making or locking anything."""
    try:
        yield _directory(path)
    except FileNotFoundError:
        yield _parent(path)
    except OSError as err:
        yield _refused(path, err)


def pinned_programs(path: str) -> set[int]:
    """Return the numbers of the programs of all links that are pinned there, of those to see."""
    found: set[int] = set()
    try:
        fd = os.open(path, OPEN_DIRECTORY)
    except OSError:
        return found  # check_pins says so
    try:
        status = os.fstat(fd)
        owner = Owner(status.st_uid, status.st_gid)
        for name in filter(is_epoch, listed(fd)):
            # A run that takes over or ends meanwhile removes its pins.
            with suppress(KernelError), Generation(fd, path, owner, int(name)) as generation:
                for code in generation.codes("link"):
                    with PinnedLink(generation, code) as link:
                        found.add(link.program_id)
    finally:
        os.close(fd)
    return found


def _directory(path: str) -> Finding:
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        if (found := filesystem(fd)) != "bpf":
            text = f"is in a file system of type {found}"
            return Finding(Status.FAIL, path, text, remedy(found))
        if is_shared(fd):
            return Finding(Status.FAIL, path, SHARED, f"use {path.rstrip('/')}/flowstream")
        runs = sum(map(is_epoch, listed(fd)))
        return Finding(Status.OK, path, f"has the pins of {counted(runs, 'run')}")
    finally:
        os.close(fd)


def _parent(path: str) -> Finding:
    above = Path(path).parent
    try:
        fd = os.open(above, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except FileNotFoundError:
        return Finding(Status.FAIL, path, f"the directory {above} does not exist", "make it first")
    except OSError as err:
        return _refused(path, err)
    try:
        if (found := filesystem(fd)) != "bpf":
            text = f"{above} is in a file system of type {found}"
            return Finding(Status.FAIL, path, text, remedy(found))
        return Finding(Status.OK, path, "can be made")
    finally:
        os.close(fd)


def _refused(path: str, err: OSError) -> Finding:
    if err.errno == errno.EACCES:
        return Finding(Status.WARN, path, "cannot be looked into", "run check as root")
    return Finding(Status.FAIL, path, err.strerror or "unknown error", remedy(""))

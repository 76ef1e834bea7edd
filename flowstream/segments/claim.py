"""Claims a directory for one writer: its contents are checked, and it is locked."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import SinkError
from flowstream.segments.reader import PARTITION_NAME

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from flowstream.segments.directory import Directory

LOCK_NAME: Final = ".lock"


def check_contents(
    root: Directory, where: str, kind: str, inner: re.Pattern[str], others: Collection[str] = ()
) -> None:
    """Raise ``SinkError`` where the directory contains anything but a ``kind``.

    That is: directories of partitions with files whose names are ``inner``, the lock and
    ``others``. ``where`` begins the message.
    """

    def require(path: Path, condition: bool) -> None:
        if not condition:
            raise SinkError(
                f"{where}: {path} is not part of a {kind}, which has no links; "
                f"use an empty directory or a {kind}"
            )

    for name in root.names():
        if name == LOCK_NAME:
            continue
        if name in others:
            require(root.path / name, root.is_file(name))
            continue
        is_partition = bool(PARTITION_NAME.fullmatch(name)) and root.is_directory(name)
        require(root.path / name, is_partition)
        with root.directory(name) as partition:
            for file in partition.names():
                known = bool(inner.fullmatch(file)) and partition.is_file(file)
                require(partition.path / file, known)


class Lock(Closing):
    """Locks a directory until it is closed.

    Raises ``SinkError``, which names the process that has it.
    """

    def __init__(self, root: Directory, where: str) -> None:
        # A user who can open the file can lock it, which keeps the agent from starting.
        try:
            self._descriptor = root.create(LOCK_NAME, 0o600)
        except FileExistsError:
            self._descriptor = root.file(LOCK_NAME)
        try:
            _hold(self._descriptor, where)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock; harmless twice."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def _hold(lock: int, where: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.read(lock, 20).strip()
        holder = f"process {said.decode()}" if said.isdigit() else "another process"
        raise SinkError(
            f"{where}: {holder} is writing there; stop it or use another directory"
        ) from None
    with contextlib.suppress(PermissionError):
        os.fchmod(lock, 0o600)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


@contextlib.contextmanager
def acting_as(owner: tuple[int, int] | None) -> Iterator[None]:
    """Have the identity of ``owner`` (uid, gid) for a while: what it may not do fails now.

    Must run before other threads exist. Without CAP_SETUID or CAP_SETGID, as in some
    containers, that part of the identity stays; so it does when privileges are given up.
    """
    if owner is None or os.geteuid() != 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setegid(owner[1])
        with contextlib.suppress(PermissionError):
            os.seteuid(owner[0])
        yield
    finally:
        os.seteuid(0)
        with contextlib.suppress(PermissionError):
            os.setegid(group)
            os.setgroups(groups)

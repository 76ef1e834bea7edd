"""Directories of pins, with a generation for each run whose programs or maps are there.

DIR/                       locked while an agent runs; mode 0700, owned by the agent's user
1764126000123456512/     the pins of the run of that agent_epoch
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Final

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel.bpffs import (
    OPEN_DIRECTORY,
    Owner,
    filesystem,
    listed,
    make_directory,
    refusal,
    require_bpffs,
    require_private,
)
from flowstream.kernel.generation import Generation, is_epoch

LOCK_WAIT_S: Final = 2.0
"""How long an agent may take to end after its successor was started."""
_LOCK_POLL_S: Final = 0.02


class PinDirectory(Closing):
    """The directory that ``--pin`` names, locked by this process and those that it forks.

    ``fd`` is its descriptor. KernelError, which names the path and the remedy, when it
    cannot be used. Closing it, in all processes that have it, releases the lock.
    """

    def __init__(self, path: str, owner: Owner, *, create: bool = True) -> None:
        self.path, self.owner = path.rstrip("/") or "/", owner
        self.fd = self._open(create=create)
        try:
            require_bpffs(self.fd, self.path)
            require_private(self.fd, self.path, owner)
            self._lock()
        except BaseException:
            self.close()
            raise

    def _open(self, *, create: bool) -> int:
        try:
            if create:
                self._create()
            return os.open(self.path, OPEN_DIRECTORY)
        except OSError as err:
            raise refusal(self.path, err) from err

    def _create(self) -> None:
        parent, name = os.path.split(self.path)
        try:
            above = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as err:
            text = f"{self.path}: the directory {parent} does not exist: make it first"
            raise KernelError(text, err.errno or 0) from err
        try:
            if "." in name and filesystem(above) == "bpf":
                raise KernelError(f"{self.path}: names in a BPF file system contain no dot")
            with contextlib.suppress(FileNotFoundError):
                os.lstat(name, dir_fd=above)
                return
            require_bpffs(above, parent or ".")
            make_directory(name, above, self.owner)
        finally:
            os.close(above)

    def _lock(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KernelError(
                        f"{self.path}: another agent uses this directory: stop it first"
                    ) from None
                time.sleep(_LOCK_POLL_S)
            else:
                break
        if os.fstat(self.fd).st_nlink == 0:
            raise KernelError(f"{self.path}: removed meanwhile: start again")

    def generations(self) -> list[Generation]:
        """Open the generations that are there, oldest first.

        KernelError that names whatever else is there, before any is opened.
        """
        names = listed(self.fd)
        for name in sorted(names):
            if not is_epoch(name):
                raise KernelError(f"{self.path}/{name}: not made by flowstream: remove it")
        found: list[Generation] = []
        try:
            for epoch in sorted(map(int, names)):
                found.append(self.generation(epoch))  # noqa: PERF401 - closed after a fault
        except BaseException:
            for each in found:
                each.close()
            raise
        return found

    def generation(self, epoch: int) -> Generation:
        """Open the generation of a run. KernelError when there is none, or it is another's."""
        return Generation(self.fd, self.path, self.owner, epoch)

    def create(self, epoch: int) -> Generation:
        """Make the generation of a run that begins."""
        try:
            make_directory(str(epoch), self.fd, self.owner)
        except OSError as err:
            raise refusal(f"{self.path}/{epoch}", err) from err
        return self.generation(epoch)

    def close(self) -> None:
        """Release the lock, unless another process has it too; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

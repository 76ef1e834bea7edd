"""Opens and creates directories by descriptors, one component of a path after the other.

A process with privileges must not be led astray by users who may write to one of the
directories on the way. A component is looked up once, in the directory that is open at that
moment, so renaming or replacing the directories above it has no effect. As root, links of other
users are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

from flowstream.errors import SinkError

if sys.platform != "linux":
    raise SinkError("recordings can be written on Linux only: their files are opened by O_PATH")

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Requires no permission on the directory itself, as a path of several components.
_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
PRIVATE: Final = 0o750
"""Mode of the directories of a recording."""
_PARENT: Final = 0o755
_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel


def open_directory(path: Path) -> tuple[int, bool]:
    """Open a directory for reading; return its descriptor, and whether it was created.

    Missing parents are created too. Raises ``OSError`` with the path so far in ``filename``,
    and ``SinkError`` for a link that is not followed.
    """
    descent = _Descent(path)
    try:
        return descent.to_the_end()
    except OSError as err:
        err.filename = str(descent.reached)
        raise
    finally:
        descent.close()


def make_directory(parent: int, name: str, mode: int = PRIVATE) -> int:
    """Create a directory, which must not exist, with this mode; return its descriptor.

    ``SinkError`` when another directory replaced it before it was opened.
    """
    os.mkdir(name, 0o700, dir_fd=parent)
    descriptor = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    # Its identity cannot be checked otherwise; any empty directory of our own is as good.
    if os.listdir(descriptor) or os.fstat(descriptor).st_uid != os.geteuid():  # noqa: PTH208
        os.close(descriptor)
        raise SinkError(f"{name}: another directory has taken the place of the new one")
    # Whatever the umask.
    os.fchmod(descriptor, mode)
    return descriptor


class _Descent:
    def __init__(self, path: Path) -> None:
        self.reached = Path()
        self._left = list(reversed(path.parts))
        self._links = 0
        self._created = False
        self._here = os.open(".", _STEP | os.O_DIRECTORY)

    def to_the_end(self) -> tuple[int, bool]:
        while self._left:
            name = self._left.pop()
            self.reached /= name
            self._step(name)
        return os.open(".", DIRECTORY, dir_fd=self._here), self._created

    def close(self) -> None:
        os.close(self._here)

    def _step(self, name: str) -> None:
        # An absolute name is that of the root, of the path or of a link's target.
        try:
            there = os.open(name, _STEP, dir_fd=self._here)
        except FileNotFoundError:
            there = make_directory(self._here, name, _PARENT if self._left else PRIVATE)
            self._created = not self._left
        try:
            status = os.fstat(there)
            if stat.S_ISDIR(status.st_mode):
                self._here, there = there, self._here
            elif stat.S_ISLNK(status.st_mode):
                self._follow(os.readlink("", dir_fd=there), status)
            else:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        finally:
            os.close(there)

    def _follow(self, target: str, link: os.stat_result) -> None:
        if os.geteuid() == 0 and link.st_uid != 0:
            raise SinkError(
                f"{self.reached} is a link of another user, which root does not follow; "
                "name the directory itself"
            )
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        self.reached = self.reached.parent
        self._left += reversed(Path(target).parts)

"""A directory that a less privileged user may write to, accessed without following links.

All access is by descriptors: no symbolic link is followed, files may be moved or
replaced meanwhile, and what was opened with privileges stays writable after they are
given up, whatever the permissions of the directories above.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Self

from flowstream.closing import Closing
from flowstream.errors import SinkError
from flowstream.segments.descent import DIRECTORY, make_directory, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# O_NONBLOCK: a named pipe must not wait for its other end.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)


class Directory(Closing):
    """An open directory; entries that it creates belong to ``owner`` (uid, gid).

    Without CAP_CHOWN they stay owned by root, and a process without CAP_SETUID
    stays root too. Methods take the name of an entry. They raise ``OSError`` with the
    path in ``filename``, and ``SinkError`` for a link or anything but a file or
    directory.
    """

    def __init__(self, descriptor: int, path: Path, owner: tuple[int, int] | None) -> None:
        self._descriptor = descriptor
        self.path = path
        """For messages: another directory may have this path by now."""
        self._owner = owner

    @classmethod
    def open(cls, path: Path, owner: tuple[int, int] | None) -> Self:
        """Open ``path`` as ``open_directory`` does; create it and its parents if missing."""
        descriptor, created = open_directory(path)
        directory = cls(descriptor, path, owner)
        if created:
            directory._hand_over(descriptor)
        return directory

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        with self._told():
            return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - no path

    def is_directory(self, name: str) -> bool:
        """Say whether it is a directory and not a link to one."""
        return stat.S_ISDIR(self._status(name).st_mode)

    def is_file(self, name: str) -> bool:
        """Say whether it is a regular file and neither a symbolic nor a hard link to one."""
        return _is_file(self._status(name))

    def size(self, name: str) -> int:
        """Return the octets of a file."""
        return self._status(name).st_size

    def directory(self, name: str) -> Directory:
        """Open a directory; create it if missing."""
        with self._told(name):
            try:
                descriptor = make_directory(self._descriptor, name)
                self._hand_over(descriptor)
            except FileExistsError:
                descriptor = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=self._descriptor)
        return Directory(descriptor, self.path / name, self._owner)

    def create(self, name: str, mode: int = 0o640) -> int:
        """Create a file, which must not exist, with this mode; open it to read and write."""
        with self._told(name):
            flags = os.O_RDWR | _OPEN | os.O_CREAT | os.O_EXCL
            descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
            # Whatever the umask.
            os.fchmod(descriptor, mode)
        self._hand_over(descriptor)
        return descriptor

    def file(self, name: str, *, writable: bool = True) -> int:
        """Open an existing file to read and, unless told otherwise, to write."""
        mode = os.O_RDWR if writable else os.O_RDONLY
        with self._told(name):
            descriptor = os.open(name, mode | _OPEN, dir_fd=self._descriptor)
        if not _is_file(os.fstat(descriptor)):
            os.close(descriptor)
            raise self._foreign(name)
        return descriptor

    @contextlib.contextmanager
    def opened(self, name: str, *, writable: bool = False) -> Iterator[int]:
        """Open an existing file for the block, to read or also to write."""
        descriptor = self.file(name, writable=writable)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Delete a file."""
        with self._told(name):
            os.unlink(name, dir_fd=self._descriptor)

    def rename(self, name: str, new: str) -> None:
        """Rename a file; one of the new name is replaced."""
        with self._told(name):
            os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def sync(self) -> None:
        """Make new, renamed and deleted entries durable."""
        with self._told():
            os.fsync(self._descriptor)

    def require_access(self, name: str = "") -> None:
        """Raise ``OSError`` unless the effective user may read a file, or add to a directory."""
        mode = os.R_OK if name else os.R_OK | os.W_OK | os.X_OK
        with self._told(name):
            if not os.access(name or ".", mode, dir_fd=self._descriptor, effective_ids=True):
                # access() says no more than no.
                code = errno.EROFS if self._is_read_only() else errno.EACCES
                raise OSError(code, os.strerror(code))

    def _is_read_only(self) -> bool:
        return bool(os.fstatvfs(self._descriptor).f_flag & os.ST_RDONLY)

    def close(self) -> None:
        """Close the descriptor; harmless twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _status(self, name: str) -> os.stat_result:
        with self._told(name):
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def _hand_over(self, descriptor: int) -> None:
        if self._owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, *self._owner)

    @contextlib.contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """Put the whole path into errors: the system knows only its last part."""
        try:
            yield
        except OSError as err:
            if err.errno in _NOT_OURS:
                raise self._foreign(name) from err
            err.filename = str(self.path / name)
            raise

    def _foreign(self, name: str) -> SinkError:
        return SinkError(
            f"{self.path / name} is a link, or neither file nor directory; "
            "remove it or use another directory"
        )


def write_at(descriptor: int, data: bytes | bytearray, position: int) -> int:
    """Write all of ``data`` there; return the position that follows."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, position)
        rest, position = rest[done:], position + done
    return position


def _is_file(status: os.stat_result) -> bool:
    # A user who may write to a directory may also create hard links in it to others' files.
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1

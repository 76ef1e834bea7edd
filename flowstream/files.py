"""Opens files whose names come from outside: regular files only."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from pathlib import Path

# O_NONBLOCK: the path may have become a named pipe since it was examined. Windows has none
# of the POSIX flags, and translates line ends without O_BINARY.
_FLAGS: Final = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK", "O_BINARY")
)
_KINDS: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; a symbolic link is followed.

    Raises OSError at once, with a text in ``strerror``, for anything else: reading a
    named pipe or a device could wait forever, and opening one may have side effects.
    """
    try:
        _require_regular(path.stat().st_mode, path)
        file = open(os.open(path, _FLAGS), "rb")  # noqa: PTH123, SIM115 - Path.open takes no flags
    except ValueError as err:  # a NUL in the name
        raise OSError(errno.EINVAL, str(err), str(path)) from err
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def _require_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
        raise OSError(errno.EINVAL, f"Is {kind}, not a regular file", str(path))


def shown(path: Path) -> str:
    """Return ``path`` as text for a message, with unprintable characters escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(path))

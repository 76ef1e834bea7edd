"""Cache of compiled objects on disk, in a directory that only the loading user can write to.

A planted object would run another user's program on root's interfaces. So root's cache is one
system directory, never a home directory or a path from the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.errors import LayoutError
from flowstream.kernel import object as kernel_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.kernel.object import KernelObject

SYSTEM: Final = Path("/var/cache/flowstream")
"""Root's cache."""
_LARGEST: Final = 1 << 22
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a named pipe must not wait for its other end.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def load(name: str, source_digest: str) -> KernelObject | None:
    """Return the object ``name`` of these sources; None if it is missing or not intact."""
    # LayoutError: written by an older version, or truncated.
    with contextlib.suppress(OSError, LayoutError), _opened() as directory:
        digest, _, data = _content(directory, _file_name(name, source_digest)).partition(b"\n")
        if digest == _digest(data):
            obj = kernel_object.decode(data, "the cache")
            if (obj.name, obj.source_digest) == (name, source_digest):
                return obj
    return None


def store(obj: KernelObject) -> None:
    """Store an object; if the cache cannot be used, the next start compiles again."""
    data = kernel_object.encode(obj)
    with contextlib.suppress(OSError), _opened() as directory:
        temporary = f".{secrets.token_hex(8)}"
        file = os.open(temporary, _CREATE, 0o644, dir_fd=directory)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(_digest(data) + b"\n" + data)
            final = _file_name(obj.name, obj.source_digest)
            os.rename(temporary, final, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(temporary, dir_fd=directory)
            raise


def _file_name(name: str, source_digest: str) -> str:
    return f"{name}-{sys.byteorder}-{source_digest}"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _place() -> Path:
    if os.geteuid() == 0:
        return SYSTEM
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowstream"


@contextlib.contextmanager
def _opened() -> Iterator[int]:
    """Open the cache, created if missing; ``OSError`` unless only this user can write to it."""
    place = _place()
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        place.mkdir(0o755)
    descriptor = os.open(place, _DIRECTORY)
    try:
        _require_own(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _content(directory: int, name: str) -> bytes:
    with os.fdopen(os.open(name, _READ, dir_fd=directory), "rb") as stream:
        status = os.fstat(stream.fileno())
        _require_own(status)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError
        return stream.read(_LARGEST)


def _require_own(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise PermissionError

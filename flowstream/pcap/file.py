"""A file that is read from its beginning to its end in bounded pieces."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.closing import Closing
from flowstream.errors import SourceError
from flowstream.files import open_regular, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

PIECE: Final = 1 << 18
"""Octets that are read at once; they stay in a processor's cache."""


class FileVersion(NamedTuple):
    """Tells one state of a file from another, as far as the file system does."""

    size: int
    modified_ns: int


def open_file(path: Path) -> BinaryIO:
    """Open a regular file. Raises SourceError."""
    try:
        return open_regular(path)
    except OSError as err:
        raise SourceError(f"{shown(path)}: cannot be read: {err.strerror}") from err


class OctetFile(Closing):
    """An open file of ``size`` octets; what is appended later is not read.

    It is read by its descriptor: a mapped file that another process truncates would
    kill this one. With ``descriptor`` it is open already, and stays open. Raises
    SourceError, which names the file, when it cannot be read, or is not what it was at
    ``expected``. A context manager; closing twice is harmless.
    """

    def __init__(
        self, path: Path, expected: FileVersion | None = None, descriptor: int | None = None
    ) -> None:
        self.path = path
        self._file = (
            open_file(path) if descriptor is None else os.fdopen(descriptor, "rb", closefd=False)
        )
        self.version = expected or self._version()
        self.size = self.version.size
        self.position = 0
        """Octet up to which the file was taken, for progress bars."""
        try:
            self.require_unchanged()
        except SourceError:
            self.close()
            raise

    def octets(self, at: int, least: int = 0) -> memoryview:
        """Return the octets from ``at`` on, ``least`` of them or more.

        There are fewer only where the file ends. They stay valid after ``close``.
        """
        self.position = at
        wanted = min(max(least, PIECE), self.size - at)
        try:
            found = os.pread(self._file.fileno(), wanted, at)
            while len(found) < wanted:
                # A file system may return less than it has.
                more = os.pread(self._file.fileno(), wanted - len(found), at + len(found))
                if not more:
                    break
                found += more
        except OSError as err:
            raise self.damage(f"cannot be read: {err.strerror}", at) from err
        return memoryview(found)

    def parts(self) -> Iterator[memoryview]:
        """Yield the whole file in pieces; each is valid until the next one."""
        piece = memoryview(bytearray(PIECE))
        at = 0
        while at < self.size:
            try:
                count = os.preadv(self._file.fileno(), [piece[: self.size - at]], at)
            except OSError as err:
                raise self.damage(f"cannot be read: {err.strerror}", at) from err
            if not count:
                raise self.cut("", at)
            yield piece[:count]
            at += count

    def require_unchanged(self) -> None:
        """Raise SourceError when the file is no longer what it was; it may have grown."""
        now = self._version()
        if now.size < self.size:
            raise self.cut("", now.size)
        if now.size == self.size and now.modified_ns != self.version.modified_ns:
            raise self.damage("the file was written to while it was read", 0)

    def grown(self) -> int:
        """Return the number of octets that were appended since the file was opened."""
        return max(self._version().size - self.size, 0)

    def damage(self, what: str, at: int) -> SourceError:
        """Return the error of a file that cannot be read from octet ``at`` on."""
        return SourceError(f"{shown(self.path)}: octet {at}: {what}")

    def cut(self, where: str, at: int) -> SourceError:
        """Return the error of a file that ends too early, ``where`` (in a packet, …) if known."""
        now = self._version().size
        text = f"is cut {where}".rstrip()
        if now < self.size:
            text += f": it shrank from {self.size:,} to {now:,} octets while it was read"
        return self.damage(text, at)

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()

    def _version(self) -> FileVersion:
        status = os.fstat(self._file.fileno())
        return FileVersion(status.st_size, status.st_mtime_ns)

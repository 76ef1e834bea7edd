"""The pins of one run: maps and links that stay when their process ends.

    table-0  table-1  slot  overflow  announcements  books  counters-CODE  link-CODE

CODE is ``AttachmentKey.code``. Nothing is followed or opened before it is known to be a pin
of the right owner: symbolic links are possible in a BPF file system, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import libbpf
from flowstream.kernel.bpffs import (
    OPEN_DIRECTORY,
    give,
    listed,
    refusal,
    require_bpffs,
    require_owner,
    require_private,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.kernel.bpffs import Owner

TABLES: Final = ("table-0", "table-1")
SLOT: Final = "slot"
OVERFLOW: Final = "overflow"
ANNOUNCEMENTS: Final = "announcements"
BOOKS: Final = "books"
SHARED: Final = (*TABLES, SLOT, OVERFLOW, ANNOUNCEMENTS)
"""Pins of the maps that all attachments of a run share, apart from the books."""
_EPOCH: Final = re.compile(r"[1-9][0-9]{0,19}")
_NAME: Final = re.compile(r"(counters|link)-(0|[1-9][0-9]{0,9})")
_CODES: Final = 1 << 33
"""2 · if_index + direction is below it."""


def is_epoch(name: str) -> bool:
    """Whether a directory's name is that of a generation."""
    return _EPOCH.fullmatch(name) is not None


def counters_pin(code: int) -> str:
    """Name of the counters of an attachment."""
    return f"counters-{code}"


def link_pin(code: int) -> str:
    """Name of the link of an attachment."""
    return f"link-{code}"


class LinkPin(NamedTuple):
    """A link's pin in an earlier generation: the run, and the code that it had there."""

    epoch: int
    code: int


class Generation(Closing):
    """The pins of one run.

    ``fd`` is the descriptor of their directory, ``above`` that of the one that it is in,
    which stays the caller's. The methods need no privilege, only the owner's rights. They
    raise KernelError with the path of the pin.
    """

    def __init__(self, above: int, path: str, owner: Owner, epoch: int) -> None:
        """Open the generation ``epoch`` in the directory of that path."""
        self.epoch, self.path = epoch, f"{path}/{epoch}"
        self.above, self._owner = above, owner
        self.fd = -1
        try:
            self.fd = os.open(str(epoch), OPEN_DIRECTORY, dir_fd=above)
        except OSError as err:
            raise refusal(self.path, err) from err
        try:
            require_bpffs(self.fd, self.path)
            require_private(self.fd, self.path, owner)
        except BaseException:
            self.close()
            raise

    def names(self) -> set[str]:
        """Names of the pins; KernelError for anything that is none, or another's."""
        return {name for name in listed(self.fd) if self._require_pin(name)}

    def codes(self, kind: str) -> list[int]:
        """Codes of the attachments that have a pin of a kind: "counters" or "link"."""
        found = map(_NAME.fullmatch, self.names())
        return sorted(int(each[2]) for each in found if each and each[1] == kind)

    @property
    def complete(self) -> bool:
        """Whether the run got as far as attaching: the books are pinned last, removed first."""
        return BOOKS in self.names()

    def pin(self, name: str, fd: int) -> None:
        """Pin the map or link behind ``fd``; the descriptor stays the caller's."""
        self._require_name(name)
        place = f"/proc/self/fd/{self.fd}/{name}"
        result = libbpf.library().bpf_obj_pin(fd, place.encode())
        libbpf.check(result, f"pinning {self.path}/{name}")
        give(name, self.fd, self._owner)

    def open(self, name: str) -> int:
        """Descriptor of a pinned map or link, the caller's. Its kind was not checked."""
        path = f"{self.path}/{name}"
        with self._opened(name) as found:
            # By its descriptor: what is opened is what was checked.
            result = libbpf.library().bpf_obj_get(f"/proc/self/fd/{found}".encode())
            return libbpf.check(result, f"opening {path}")

    def unpin(self, name: str) -> None:
        """Remove a pin; harmless when there is none."""
        self._require_name(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def share(self, fds: Sequence[int]) -> None:
        """Pin the maps that all attachments share: descriptors in the order of ``SHARED``."""
        for name, fd in zip(SHARED, fds, strict=True):
            self.pin(name, fd)

    def remove(self) -> None:
        """Remove all pins, links first, and the directory; close it.

        Links that nothing else holds are detached. Whatever the moment at which this is
        interrupted, what is left has either its books or no link.
        """
        names = self.names()
        links = sorted(name for name in names if name.startswith("link-"))
        books = sorted(names & {BOOKS})
        for name in (*links, *books, *sorted(names - {*links, *books})):
            self.unpin(name)
        try:
            os.rmdir(str(self.epoch), dir_fd=self.above)
        except OSError as err:
            raise refusal(self.path, err) from err
        self.close()

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        try:
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as err:
            raise refusal(f"{self.path}/{name}", err) from err
        try:
            self._require_name(name)
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise KernelError(f"{self.path}/{name}: not a pin: remove it")
            require_owner(status, f"{self.path}/{name}", self._owner)
            yield found
        finally:
            os.close(found)

    def _require_pin(self, name: str) -> bool:
        with self._opened(name):
            return True

    def _require_name(self, name: str) -> None:
        found = _NAME.fullmatch(name)
        if name not in {*SHARED, BOOKS} and not (found and int(found[2]) < _CODES):
            raise KernelError(f"{self.path}/{name}: not made by flowstream: remove it")

    def close(self) -> None:
        """Close the directory; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

"""Pins: maps and links that a directory of a BPF file system keeps when their process ends.

    DIR/                       locked while an agent runs; mode 0700, owned by the agent's user
      1764126000123456512/     a generation: what the run of that agent_epoch left, or has now
        table-0  table-1  slot  overflow  announcements  books  counters-CODE  link-CODE

CODE is ``AttachmentKey.code``. Nothing in there is followed or opened before it is known to
be a pin of the right owner: symbolic links are possible in a BPF file system, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import libbpf

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES: Final = ("table-0", "table-1")
SLOT: Final = "slot"
OVERFLOW: Final = "overflow"
ANNOUNCEMENTS: Final = "announcements"
BOOKS: Final = "books"
SHARED: Final = (*TABLES, SLOT, OVERFLOW, ANNOUNCEMENTS)
"""Pins of the maps that all attachments of a generation share, apart from the books."""

LOCK_WAIT_S: Final = 2.0
"""How long an agent may take to end after its successor was started."""
_LOCK_POLL_S: Final = 0.02
_EPOCH: Final = re.compile(r"[1-9][0-9]{0,19}")
_NAME: Final = re.compile(r"(counters|link)-(0|[1-9][0-9]{0,9})")
_CODES: Final = 1 << 33
"""2 · if_index + direction is below it."""
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Owner(NamedTuple):
    """User and group that own a directory of pins, by number."""

    uid: int
    gid: int


def counters_pin(code: int) -> str:
    """Name of the counters of an attachment."""
    return f"counters-{code}"


def link_pin(code: int) -> str:
    """Name of the link of an attachment."""
    return f"link-{code}"


class PinDirectory(Closing):
    """The directory that ``--pin`` names, locked by this process and those that it forks.

    ``fd`` is its descriptor. KernelError, which names the path and the remedy, when it
    cannot be used. Closing it, in all processes that have it, releases the lock.
    """

    def __init__(self, path: str, owner: Owner, *, create: bool = True) -> None:
        self.path, self.owner = path.rstrip("/") or "/", owner
        self.fd = self._open(create=create)
        try:
            _require_bpffs(self.fd, self.path)
            _require_private(self.fd, self.path, owner)
            self._lock()
        except BaseException:
            self.close()
            raise

    def _open(self, *, create: bool) -> int:
        try:
            if create:
                self._create()
            return os.open(self.path, _OPEN_DIRECTORY)
        except OSError as err:
            raise _refusal(self.path, err) from err

    def _create(self) -> None:
        parent, name = os.path.split(self.path)
        above = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if "." in name and _filesystem(above) == "bpf":
                raise KernelError(f"{self.path}: names in a BPF file system contain no dot")
            with contextlib.suppress(FileNotFoundError):
                os.lstat(name, dir_fd=above)
                return
            _require_bpffs(above, parent or ".")
            _make_directory(name, above, self.owner)
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
                return

    def generations(self) -> list[Generation]:
        """Open the generations that are there, oldest first.

        KernelError that names whatever else is there, before any is opened.
        """
        names = _listed(self.fd)
        for name in sorted(names):
            if not _EPOCH.fullmatch(name):
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
        path = f"{self.path}/{epoch}"
        try:
            fd = os.open(str(epoch), _OPEN_DIRECTORY, dir_fd=self.fd)
        except OSError as err:
            raise _refusal(path, err) from err
        return Generation(self, epoch, fd)

    def create(self, epoch: int) -> Generation:
        """Make the generation of a run that begins."""
        try:
            _make_directory(str(epoch), self.fd, self.owner)
        except OSError as err:
            raise _refusal(f"{self.path}/{epoch}", err) from err
        return self.generation(epoch)

    def close(self) -> None:
        """Release the lock, unless another process has it too; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Generation(Closing):
    """The pins of one run. ``fd`` is the descriptor of their directory.

    The methods need no privilege, only the owner's rights. They raise KernelError with
    the path of the pin.
    """

    def __init__(self, directory: PinDirectory, epoch: int, fd: int) -> None:
        self.epoch, self.fd = epoch, fd
        self.path = f"{directory.path}/{epoch}"
        self._directory = directory
        try:
            _require_bpffs(fd, self.path)
            _require_private(fd, self.path, directory.owner)
        except BaseException:
            self.close()
            raise

    def names(self) -> set[str]:
        """Names of the pins; KernelError for anything that is none, or another's."""
        return {name for name in _listed(self.fd) if self._require_pin(name)}

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
        owner = self._directory.owner
        if os.geteuid() != owner.uid:
            os.chown(name, *owner, dir_fd=self.fd, follow_symlinks=False)

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

    def take_link(self, code: int, earlier: Generation, their_code: int) -> None:
        """Make an earlier generation's pin of a link one of this generation, in one step."""
        try:
            os.rename(
                link_pin(their_code), link_pin(code), src_dir_fd=earlier.fd, dst_dir_fd=self.fd
            )
        except OSError as err:
            raise _refusal(f"{earlier.path}/{link_pin(their_code)}", err) from err

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
            os.rmdir(str(self.epoch), dir_fd=self._directory.fd)
        except OSError as err:
            raise _refusal(self.path, err) from err
        self.close()

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        try:
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as err:
            raise _refusal(f"{self.path}/{name}", err) from err
        try:
            self._require_name(name)
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise KernelError(f"{self.path}/{name}: not a pin: remove it")
            _require_owner(status, f"{self.path}/{name}", self._directory.owner)
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


def _listed(fd: int) -> list[str]:
    return os.listdir(fd)


def _make_directory(name: str, above: int, owner: Owner) -> None:
    os.mkdir(name, 0o700, dir_fd=above)
    if os.geteuid() != owner.uid:
        os.chown(name, *owner, dir_fd=above, follow_symlinks=False)


def _require_bpffs(fd: int, path: str) -> None:
    found = _filesystem(fd)
    if found != "bpf":
        raise KernelError(
            f"{path} is in a file system of type {found or 'unknown'}, not bpf: "
            "use a directory below /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)"
        )


def _filesystem(fd: int) -> str:
    """Type of the file system that a descriptor is in (proc_pid_mountinfo(5)), "" if unknown."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        if line.split()[2] == wanted:
            return line.rpartition(" - ")[2].split()[0]
    return ""


def _require_private(fd: int, path: str, owner: Owner) -> None:
    status = os.fstat(fd)
    _require_owner(status, path, owner)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KernelError(f"{path}: others have access to it: chmod 700 {path}")


def _require_owner(status: os.stat_result, path: str, owner: Owner) -> None:
    if status.st_uid != owner.uid:
        raise KernelError(
            f"{path} belongs to user {status.st_uid}, and the agent runs as user {owner.uid}: "
            "use the same --user, or remove it with flowstream detach"
        )


def _refusal(path: str, err: OSError) -> KernelError:
    return KernelError(f"{path}: {err.strerror}", err.errno or 0)

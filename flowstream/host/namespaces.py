"""Network namespaces: named by ip netns, by a path, or by a process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from flowstream.closing import Closing
from flowstream.errors import KernelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_OWN: Final = Path("/proc/thread-self/ns/net")
_NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
_OF_PROCESS: Final = re.compile(r"pid:([0-9]{1,7})|/proc/([0-9]{1,7})/ns/net", re.ASCII)
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Namespace(Closing):
    """A network namespace, held open: it can be entered although its name is gone.

    ``label`` is the name as given ("" for the process's own), ``number`` its place among
    those of a run. An open descriptor keeps a namespace alive, with its interfaces:
    close it once ``alive`` is false. Closing twice is harmless.
    """

    def __init__(self, label: str, number: int = 0) -> None:
        self.label, self.number = label, number
        self.fd: int | None = None
        self._present: Callable[[], bool] = _always
        self._stack = ExitStack()

    @classmethod
    def open(cls, label: str, number: int = 0) -> Self:
        """Open what ``label`` names: a name of ip netns, an absolute path, or ``pid:N``.

        Raises ``KernelError`` when there is no such namespace, and without the privilege
        to open it.
        """
        namespace = cls(label, number)
        process = _OF_PROCESS.fullmatch(label)
        try:
            if process:
                namespace._open_of_process(int(process[1] or process[2]))
            else:
                namespace._open_file(DIRECTORY / label)
        except OSError as err:
            namespace.close()
            raise KernelError(_explain(label, err), err.errno or 0) from err
        except BaseException:
            namespace.close()
            raise
        return namespace

    def _open_file(self, path: Path) -> None:
        """Open a file of the namespace; it is alive as long as the file stands for it."""
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, directory)
        inside = self._hold(os.open(path.name, _OPEN, dir_fd=directory))

        def present() -> bool:
            try:
                return os.path.samestat(os.stat(path.name, dir_fd=directory), inside)
            except PermissionError:
                # The directory is not open to the user that this process has become.
                return _is_mounted(inside.st_ino)
            except OSError:
                return False

        self._present = present

    def _open_of_process(self, process: int) -> None:
        """Open the namespace of a process; it is alive as long as the process."""
        ended = os.pidfd_open(process)
        self._stack.callback(os.close, ended)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        self._hold(os.open(f"/proc/{process}/ns/net", _OPEN))
        self._present = lambda: not poll.poll(0)
        if not self.alive():  # its number may be another process's by now
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _hold(self, fd: int) -> os.stat_result:
        self._stack.callback(os.close, fd)
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:  # no namespace at all
            kind = 0
        if kind != CLONE_NEWNET:
            raise KernelError(f"{self.label} is not a network namespace", errno.EINVAL)
        self.fd = fd
        return os.fstat(fd)

    def alive(self) -> bool:
        """Report whether its name, path or process still stands for it; needs no privilege."""
        return self._present()

    def is_same(self, other: Namespace) -> bool:
        """Report whether both are one namespace."""
        return os.path.samestat(self._stat(), other._stat())

    def _stat(self) -> os.stat_result:
        return _OWN.stat() if self.fd is None else os.fstat(self.fd)

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """Provide a descriptor of the namespace for the block."""
        if self.fd is not None:
            yield self.fd
            return
        with _own() as home:
            yield home

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace for the block.

        Sockets and links opened inside stay in that namespace. Raises ``KernelError``
        without the privilege to enter.
        """
        with inside(self.fd, f"network namespace {self.label}"):
            yield

    def close(self) -> None:
        """Release the namespace."""
        self.fd = None
        self._present = _never
        self._stack.close()


def open_all(labels: Sequence[str]) -> list[Namespace]:
    """Open the namespaces of a run, numbered in their order; without any, the process's own.

    Raises ``KernelError`` as ``Namespace.open`` does, and ``UsageError`` when two labels
    name one namespace.
    """
    opened: list[Namespace] = []
    try:
        for number, label in enumerate(labels):
            opened.append(Namespace.open(label, number))
            _require_another(opened[-1], opened[:-1])
    except BaseException:
        for namespace in opened:
            namespace.close()
        raise
    return opened or [Namespace("")]


def _require_another(last: Namespace, earlier: Sequence[Namespace]) -> None:
    for each in earlier:
        if each.is_same(last):
            raise UsageError(f"netns: {each.label} and {last.label} are one namespace")


@contextlib.contextmanager
def entered(label: str | None) -> Iterator[None]:
    """Move the calling thread into the namespace that ``label`` names; None changes nothing."""
    opened = Namespace("") if label is None else Namespace.open(label)
    with opened, opened.entered():
        yield


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def _is_mounted(inode: int) -> bool:
    """Report whether a file of this mount namespace stands for a network namespace."""
    return b" net:[%d] " % inode in Path("/proc/self/mountinfo").read_bytes()


def _explain(label: str, err: OSError) -> str:
    if isinstance(err, PermissionError):
        needed = "root or CAP_SYS_PTRACE" if _OF_PROCESS.fullmatch(label) else "root"
        return f"opening network namespace {label}: {err.strerror}; needs {needed}"
    if _OF_PROCESS.fullmatch(label):
        return (
            f"no network namespace {label!r}: no such process; "
            "lsns --type net lists namespaces with their processes"
        )
    directory = (DIRECTORY / label).parent
    try:
        found = ", ".join(sorted(path.name for path in directory.iterdir())) or "none"
    except OSError:
        found = "none"
    where = "" if directory == DIRECTORY else f" in {directory}"
    return f"no network namespace {label!r}; there are{where}: {found}"


@contextlib.contextmanager
def inside(fd: int | None, name: str = "the network namespace") -> Iterator[None]:
    """Move the calling thread into the namespace behind a descriptor for the block.

    None changes nothing. Raises ``KernelError`` without the privilege to enter.
    """
    if fd is None:
        yield
        return
    with _own() as home:
        move(fd, f"entering {name}")
        try:
            yield
        finally:
            move(home, "returning to the original network namespace")


@contextlib.contextmanager
def _own() -> Iterator[int]:
    fd = own()
    try:
        yield fd
    finally:
        os.close(fd)


def own() -> int:
    """Open the network namespace of the calling thread; the descriptor is the caller's."""
    return os.open(_OWN, _OPEN)


def move(fd: int, action: str) -> None:
    """Move the calling thread into the namespace behind a descriptor, for good.

    Raises ``KernelError`` that says what the ``action`` was.
    """
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise KernelError(f"{action}: {os.strerror(number)}; needs root or CAP_SYS_ADMIN", number)

"""What an agent has of a filter at the TC hook that its attacher keeps (see ``clsact``).

No descriptor keeps a filter, and removing it takes privileges. So the ends of a socket pair
stand in a link's place. When the agent's end is shut, the attacher removes the filter, says so
and closes its own end; so it does when another process has removed the filter.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final, Self

from flowstream.closing import Closing
from flowstream.errors import KernelError, LayoutError
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBER_SIZE: Final = 4
"""Octets of the first message: the number of the filter's program."""
_REMOVED: Final = b"removed"
"""The last message: there is no filter any more."""
_REMOVAL_S: Final = 2.0
"""How long to wait for it; the attacher may be loading a program."""
_ENDED: Final = select.POLLHUP | select.POLLRDHUP
_SO_COOKIE: Final = 57  # asm-generic/socket.h


class Lease(Closing):
    """The agent's end: a filter on interface ``index`` stays as long as ``fd`` is open.

    ``not_first`` says which filters run before it, or nothing.
    """

    def __init__(self, fd: int, index: int, not_first: str = "") -> None:
        self.fd, self.index, self.mode, self.not_first = fd, index, Mode.CLSACT, not_first

    @classmethod
    def from_fd(cls, fd: int, index: int) -> Self:
        """Use the end behind ``fd``; LayoutError when it is no socket.

        Owns ``fd`` from the call on, also when it raises.
        """
        if not is_lease(fd):
            os.close(fd)
            raise LayoutError(f"descriptor {fd} is no socket")
        return cls(fd, index)

    def close(self) -> None:
        """Have the filter removed, and wait for it; harmless twice. Needs no privilege.

        KernelError when the attacher does not say that it is: it was killed, or is stopped.
        The program may still be running on another CPU.
        """
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd) as end:
            end.settimeout(_REMOVAL_S)
            try:
                end.shutdown(socket.SHUT_WR)
                while told := end.recv(len(_REMOVED)):
                    if told == _REMOVED:
                        return
                reason = "has ended"
            except OSError as err:
                reason = f"does not answer: {err.strerror or err}"
        text = f"the TC filter on interface {self.index} may still be there: the attacher {reason}"
        raise KernelError(text)

    def detach(self) -> None:
        """Do as ``close``: no other process has this end."""
        self.close()

    def let_go(self) -> None:
        """Have the filter removed, without waiting for it; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            # The attacher sees that no process has this end any more.
            os.close(fd)


class Grant(Closing):
    """The attacher's end, which is readable once the agent has shut its own.

    ``fd`` is its descriptor, ``tenant_fd`` that of the agent's end, which is the caller's, and
    ``number`` that end's ``number_of``.
    """

    def __init__(self, program_id: int) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fd = self._end.fileno()
        self.tenant_fd = theirs.detach()
        self.number = number_of(self.tenant_fd)
        self._end.send(program_id.to_bytes(_NUMBER_SIZE))

    def say_removed(self) -> None:
        """Say that there is no filter any more."""
        # The agent may be gone. There is always room for two messages.
        with contextlib.suppress(OSError):
            self._end.send(_REMOVED, socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Close this end; harmless twice."""
        self._end.close()


def is_lease(fd: int) -> bool:
    """Whether a descriptor is that of a lease, not of a link."""
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def number_of(fd: int) -> int:
    """Return the kernel's number of a socket, which no other one gets."""
    with _borrowed(fd) as end:
        cookie = end.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    return int.from_bytes(cookie, sys.byteorder)


def program_in_force(fd: int) -> int:
    """Return the number of the program that the filter runs, 0 when the filter is gone."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    if any(events & _ENDED for _, events in poll.poll(0)):
        return 0
    with _borrowed(fd) as end:
        return int.from_bytes(end.recv(_NUMBER_SIZE, socket.MSG_PEEK | socket.MSG_DONTWAIT))


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Provide the socket behind a descriptor, which stays the caller's."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    try:
        yield sock
    finally:
        sock.detach()

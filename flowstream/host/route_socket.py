"""Sockets of rtnetlink(7)."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.host import netlink
from flowstream.host.netlink import DamagedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.host.netlink import Message

_BUFFER: Final = 1 << 17
_QUEUE: Final = 8 << 20
"""Octets of messages that may wait, of which the kernel counts 2 to 4 KiB each."""
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_TIMEOUT_S: Final = 10.0


class RouteSocket(Closing):
    """A socket to the network namespace in which it was opened, whoever uses it later.

    With ``groups`` (RTMGRP_*) it receives notices and never blocks, else it asks, and waits for
    an answer, which the kernel gives within the request, for ``timeout_s``, None without end.
    Raises ``KernelError`` when the kernel does not answer, or has no such sockets for this
    process.
    """

    def __init__(self, groups: int = 0, timeout_s: float | None = _TIMEOUT_S) -> None:
        self._seqs = itertools.count(1)
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            try:
                self._socket.bind((0, groups))
            except BaseException:
                self._socket.close()
                raise
        except OSError as err:
            raise failed(err) from err
        # Without a limit it blocks already: an attacher may not make the system call.
        if groups or timeout_s is not None:
            self._socket.settimeout(0 if groups else timeout_s)
        if groups:
            self._enlarge()

    def _enlarge(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE)
        except PermissionError:
            # At most net.core.rmem_max.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)

    @property
    def fd(self) -> int:
        """Its descriptor, which is readable when a message waits."""
        return self._socket.fileno()

    def receive(self) -> list[Message]:
        """Return the messages that came at once, none when another process sent them.

        Raises ``DamagedMessageError``, also when they are larger than the buffer, and
        ``OSError``: BlockingIOError without a message, ENOBUFS after some were lost.
        """
        octets, _, flags, (port, _) = self._socket.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise DamagedMessageError(f"larger than {_BUFFER} octets")
        return list(netlink.messages(octets)) if port == 0 else []

    def ask(self, request: Callable[[int], bytes]) -> tuple[list[Message], bool]:
        """Send a request, made for its sequence number; return the answer, and if it is whole.

        Blocks as long as the kernel holds its lock of links. KernelError when it refuses.
        """
        seq, whole = next(self._seqs), True
        answer: list[Message] = []
        try:
            self._socket.send(request(seq))
            while True:
                try:
                    received = self.receive()
                except DamagedMessageError:
                    whole = False
                    continue
                for message in received:
                    if message.seq != seq:
                        continue
                    if number := netlink.error_of(message):
                        raise failed(OSError(number, os.strerror(number)))
                    whole = whole and not message.flags & netlink.NLM_F_DUMP_INTR
                    if message.kind in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR):
                        return answer, whole
                    answer.append(message)
        except OSError as err:
            raise failed(err) from err

    def close(self) -> None:
        """Release the namespace."""
        self._socket.close()


def failed(err: OSError) -> KernelError:
    """Return the error to raise for one of a socket."""
    return KernelError(f"asking the kernel by rtnetlink: {err.strerror}", err.errno or 0)

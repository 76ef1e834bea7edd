"""A service manager's end of the notification socket."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Self

from support.traffic import wait_until

if TYPE_CHECKING:
    from pathlib import Path

_CREDENTIALS = struct.Struct("iII")


class Manager:
    """Receives what processes tell, at a path or, without one, at an abstract address."""

    def __init__(self, path: Path | None = None) -> None:
        self.messages: list[list[str]] = []
        self.senders: set[int] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.address = str(path or f"@flowstream-test-{os.getpid()}-{id(self)}")
        self._socket.bind(self.address if path else "\0" + self.address[1:])
        if path:
            path.chmod(0o777)

    def environment(self, *more: str) -> tuple[str, ...]:
        """Put before a command, gives it the address, and ``more`` variables."""
        return ("env", f"NOTIFY_SOCKET={self.address}", *more)

    def fill(self) -> None:
        """Leave no room for a message."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(self._socket.getsockname())
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(b"X_FILL=1")

    def receive(self) -> Self:
        """Take what has come so far."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    65536, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return self
            ((_, _, credentials),) = ancillary
            self.senders.add(_CREDENTIALS.unpack(credentials)[0])
            self.messages.append(data.decode().split("\n"))

    @property
    def lines(self) -> list[str]:
        """All that was told, line by line."""
        return [line for message in self.receive().messages for line in message]

    @property
    def states(self) -> list[str]:
        """The changes of state that were told."""
        kinds = ("READY", "RELOADING", "STOPPING")
        return [line for line in self.lines if line.partition("=")[0] in kinds]

    @property
    def statuses(self) -> list[str]:
        """The texts for people."""
        return [each.removeprefix("STATUS=") for each in self.lines if each.startswith("STATUS=")]

    def told(self, line: str, times: int = 1) -> bool:
        """Wait until a line was told so many times."""
        return wait_until(lambda: self.lines.count(line) >= times)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

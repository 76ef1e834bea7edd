"""Reports the state of the process to the service manager, as sd_notify(3) describes it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

EXTENSION_S: Final = 30
"""Within this time the next report has to follow, as long as the process starts or ends."""


class _Phase(Enum):
    STARTING = auto()
    READY = auto()
    ENDING = auto()


class ServiceManager(Closing):
    """The service manager that started this process, by the ``address`` of its socket.

    ``address`` is a path, or a name in the abstract namespace after ``@``; empty: there is no
    service manager, and nothing is sent. ``watchdog_s`` are the seconds within which it
    expects each ``report``, None for no limit. No method waits or raises. A change of state
    that finds the socket full is sent with the next message, and the socket is opened again
    when its other end is gone. A context manager; closing twice is harmless.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address, self.watchdog_s = address, watchdog_s
        self._phase = _Phase.STARTING
        self._unsent: tuple[str, ...] = ()
        self._socket: socket.socket | None = None

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """Take the service manager's variables out of the environment, which children inherit."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        # A number of 64 bits.
        is_number = watchdog_us.isdecimal() and len(watchdog_us) <= 20
        expected = is_number and int(watchdog_us) > 0 and pid == str(os.getpid())
        return cls(address, int(watchdog_us) / 1e6 if expected else None)

    def __bool__(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def open(self) -> None:
        """Connect the socket, which the present user may be the last one permitted to do."""
        self._send()

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """Say that the start is over; without effect once the process ends."""
        if self._phase is _Phase.STARTING:
            self._phase = _Phase.READY
            self._change("READY=1")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read again, and at the end of the block that it was.

        Nothing is said while the process starts or ends: it would seem ready.
        """
        if self._phase is _Phase.READY:
            self._change("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        yield
        if self._phase is _Phase.READY:
            self._change("READY=1")

    def stopping(self) -> None:
        """Say that the process ends."""
        if self._phase is not _Phase.ENDING:
            self._phase = _Phase.ENDING
            self._change("STOPPING=1")

    def report(self, status: str) -> None:
        """Say that the process is alive, with its state in one line.

        While it starts or ends, that gives it ``EXTENSION_S`` more: it knows better how long
        it may wait for a cluster than the service's own limits.
        """
        extension = f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}"
        self._send(
            f"STATUS={status}",
            *(["WATCHDOG=1"] if self.watchdog_s else []),
            *([extension] if self._phase is not _Phase.READY else []),
        )

    def _change(self, *lines: str) -> None:
        # Of several states in a message the last one counts; RELOADING is over with it.
        self._unsent = lines
        self._send()

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = _connected(self._address)
            if message := "\n".join((*self._unsent, *lines)):
                self._socket.send(message.encode(errors="replace"))
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        else:
            self._unsent = ()


def _connected(address: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        connected.setblocking(False)
        connected.connect("\0" + address[1:] if address.startswith("@") else address)
    except BaseException:
        connected.close()
        raise
    return connected

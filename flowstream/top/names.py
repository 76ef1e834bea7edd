"""Names of addresses, asked of the resolver in the background."""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING, Final

from flowstream.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST: Final = 4_096
"""Addresses that are kept with their names; then all are forgotten."""
_WAITING: Final = 256
_THREADS: Final = 4
_LONGEST: Final = 253
"""Characters of a domain name."""


def ask(address: str) -> str:
    """Return the name of an address by the host's resolver; raises OSError or UnicodeError."""
    return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]


class Names:
    """A bounded cache of names. ``lookup`` may take as long as it likes, in other threads."""

    def __init__(self, lookup: Callable[[str], str] = ask) -> None:
        self._lookup = lookup
        self._queue: queue.Queue[str] = queue.Queue(_WAITING)
        # None: asked, and no answer yet or none at all.
        self._names: dict[str, str | None] = {}
        self._threads: list[threading.Thread] = []

    def of(self, addresses: Iterable[str]) -> Mapping[str, str]:
        """Return the names that are known; ask for the others."""
        if not self._threads:
            self._start()
        found = {}
        for address in addresses:
            if name := self._names.get(address):
                found[address] = name
            elif address not in self._names:
                self._ask_for(address)
        return found

    def _ask_for(self, address: str) -> None:
        if len(self._names) >= MOST:
            self._names = {}
        try:
            self._queue.put_nowait(address)
        except queue.Full:
            return  # next time
        self._names[address] = None

    def _start(self) -> None:
        # Daemons: a resolver that does not answer must not delay the end.
        self._threads = [
            threading.Thread(target=self._answer, name="top-names", daemon=True)
            for _ in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        while True:
            address = self._queue.get()
            try:
                name = self._lookup(address)
            except (OSError, UnicodeError):
                continue
            # It comes from whoever has the address.
            self._names[address] = printable(name)[:_LONGEST]

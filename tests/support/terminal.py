"""A program in a terminal of a given size: what it shows, by an emulator, and keys for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WAIT_S = 60.0
# A size in the environment, as GNU readline puts it there, would come before the terminal's.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
} | {"TERM": "xterm-256color", "COLORTERM": ""}
KEYS = {"down": "\x1b[B", "up": "\x1b[A", "pgdn": "\x1b[6~", "esc": "\x1b", "ctrl-c": "\x03"}


class Terminal:
    """Runs a command in a terminal, whose session it leads; killed at the end of the block."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.output = b""
        self._master, slave = pty.openpty()
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            [*_LEADER, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=_ENVIRONMENT | (env or {}),
            **options,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self._slave, self._master):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def text(self) -> str:
        """What the terminal shows, a line each."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def cells(self, text: str) -> list[Any]:
        """The cells, with colours and so on, of the first place that shows ``text``."""
        with self._lock:
            for number, line in enumerate(self._screen.display):
                if (place := line.find(text)) >= 0:
                    row = self._screen.buffer[number]
                    return [row[place + n] for n in range(len(text))]
        raise AssertionError(f"{text!r} is not in:\n{self.text()}")

    def wait(self, shows: Callable[[str], bool] | str, seconds: float = WAIT_S) -> str:
        """Wait until the terminal shows a text, or something that is true; return the screen."""
        true = (lambda text: shows in text) if isinstance(shows, str) else shows
        deadline = time.monotonic() + seconds
        while not true(text := self.text()):
            assert time.monotonic() < deadline, f"never shown: {shows}\n{text}"
            assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{text}"
            time.sleep(0.02)
        return text

    def keys(self, *keys: str) -> None:
        """Type keys: characters, or names out of ``KEYS``."""
        for key in keys:
            os.write(self._master, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, as by dragging a window; the kernel tells the program."""
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def hang_up(self) -> None:
        """Close the terminal, as when a window is closed or a connection breaks."""
        os.close(self._slave)
        os.close(self._master)

    def ended(self, seconds: float = WAIT_S) -> int:
        """Wait for the program's end and return its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(1)
        return status

    @property
    def is_restored(self) -> bool:
        """Whether the terminal's settings are those of the beginning."""
        return termios.tcgetattr(self._slave) == self.before

    def _set_size(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65_536)
            except OSError:
                return
            with self._lock:
                self.output += data
                self._stream.feed(data)


# The session's first process takes the terminal (TIOCSCTTY): the kernel sends it SIGWINCH
# and SIGHUP.
_LEADER = (
    sys.executable,
    "-c",
    "import fcntl, os, sys\nfcntl.ioctl(0, 0x540E, 0)\nos.execvp(sys.argv[1], sys.argv[1:])",
)

"""An agent of this command's own, whose records come through a pipe as JSON lines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from flowstream.errors import FlowstreamError
from flowstream.host import installation
from flowstream.messages import Message
from flowstream.streams import Stream
from flowstream.undecodable import UNDECODABLE
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIPE_OCTETS: Final = 1 << 20
_END_S: Final = 15.0
_TOPICS: Final = {
    b'{"record_type":1,': Stream.FLOWS,
    b'{"record_type":2,': Stream.NEW_FLOWS,
    b'{"record_type":3,': Stream.COUNTERS,
}
_HEAD: Final = len(b'{"record_type":1,')
_ERROR: Final = "flowstream: error: "
_NO_INTERFACE: Final = "no_interface_matches"


class _Line(msgspec.Struct):
    event: str
    level: str


class AgentFeed:
    """``flowstream run`` in a child process; see ``flowstream.top.feeds.Feed``.

    It is started at once, with the privileges of this process. It ends with this process: at
    the latest when it writes into the pipe without a reader.
    """

    def __init__(self, options: Sequence[str]) -> None:
        fixed = ("--sink", "stdout:", "--interval", "1", "--log-format", "json")
        self._process = subprocess.Popen(
            installation.command("run", *options, *fixed),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=installation.environment(),
        )
        self._said = threading.Thread(target=self._hear, name="top-agent-log", daemon=True)
        self._error: list[str] = []
        self._is_error = False
        self._unmatched = False
        self._warned = 0
        self._last_warning = ""
        self._stopped = False

    @property
    def warnings(self) -> Sequence[str]:
        """What the agent warned of, in one line."""
        if not self._warned:
            return []
        return [f"{counted(self._warned, 'warning')} of the agent, the last: {self._last_warning}"]

    @property
    def is_certain(self) -> bool:
        """Not while no interface matches: then there may never be counters."""
        return not self._unmatched

    def run(self, take: Callable[[list[Message]], None]) -> None:
        """Pass on its records until it ends; raises ``FlowstreamError`` when it fails."""
        self._said.start()
        assert self._process.stdout is not None  # noqa: S101 - a pipe, for mypy
        reading, rest, number = self._process.stdout.fileno(), b"", 0
        while data := os.read(reading, _PIPE_OCTETS):
            *lines, rest = (rest + data).split(b"\n")
            for stream, values in _by_stream(lines).items():
                number += len(values)
                take([Message(stream, 0, number, 0, None, value) for value in values])
        status = self._process.wait()
        self._said.join()
        if not self._stopped:
            ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else "has ended"
            raise _AgentError(self._error or [f"the agent {ended}"], status)

    def stop(self) -> None:
        """Let the agent end in order, for some time."""
        self._stopped = True
        # Before it has given up its privileges it may not be signalled; it sees the pipe's end.
        with contextlib.suppress(PermissionError):
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Wait for the agent's end, which is forced when it takes too long."""
        self.stop()
        assert self._process.stdout is not None  # noqa: S101 - a pipe, for mypy
        self._process.stdout.close()
        # Standard error stays open: its reader would hold up who closes it.
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):
                self._process.kill()

    def _hear(self) -> None:
        """Read what it says on standard error: log records, and an error if it cannot go on."""
        assert self._process.stderr is not None  # noqa: S101 - a pipe, for mypy
        for raw in self._process.stderr:
            try:
                line = msgspec.json.decode(raw, type=_Line)
            except UNDECODABLE:
                self._hear_text(raw.decode(errors="replace").rstrip())
                continue
            if line.level == "warning":
                self._warned += 1
                self._last_warning = line.event
                self._unmatched = self._unmatched or line.event == _NO_INTERFACE
            elif line.level in ("error", "critical"):
                self._error = [f"the agent: {line.event}"]

    def _hear_text(self, text: str) -> None:
        """An error of the command has lines up to the end; of other text the last one counts."""
        if text.startswith(_ERROR):
            self._is_error = True
            self._error = [text.removeprefix(_ERROR)]
        elif self._is_error:
            self._error.append(text)
        else:
            self._error = [text]


class _AgentError(FlowstreamError):
    """The agent ended by itself; its exit status is this command's."""

    def __init__(self, lines: list[str], status: int) -> None:
        super().__init__(lines[0])
        self._lines = lines
        self.exit_status = status if status > 0 else 1

    @property
    def lines(self) -> list[str]:
        """The agent's own."""
        return self._lines


def _by_stream(lines: Sequence[bytes]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for line in lines:
        found.setdefault(_TOPICS.get(line[:_HEAD], Stream.FLOWS), []).append(line)
    return {f"flowstream.{stream}": values for stream, values in found.items()}

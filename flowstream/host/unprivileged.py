"""Calls a function in a child process that has given up its privileges.

For input from outside that is needed before the agent itself can give them up. If hostile input
takes over a parser, the parser has no privileges, and its result is checked like other input.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from flowstream.errors import FilterError, FlowstreamError, SinkError, SourceError, UsageError
from flowstream.host import privileges
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.host.privileges import User

Value = TypeVar("Value")

_MOST: Final = 1 << 26
"""Octets of an answer: the largest are the books of a run with 16,384 attachments, 32 MiB."""
_ERRORS: Final = {
    kind.__name__: kind for kind in (FilterError, SinkError, SourceError, UsageError)
}


class _Answer(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    kind: str = ""


def call(
    user: User, work: Callable[[], Value], kind: type[Value], within_s: float | None = None
) -> Value:
    """Return what ``work`` returns in a child process that has become ``user``.

    The value has the type ``kind`` and can be written as JSON. ``work`` may not import: the
    user may not be allowed to read the installation. Raises the ``FilterError``,
    ``SinkError``, ``SourceError`` or ``UsageError`` that ``work`` raises, and
    ``TimeoutError`` after ``within_s`` seconds, whatever the child was waiting for.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as err:
        os.close(reading)
        os.close(writing)
        raise FlowstreamError(f"starting a process: {err.strerror}") from err
    if child == 0:
        _child(parent, user, work, writing)
    os.close(writing)
    try:
        data = _read(reading, within_s)
    finally:
        os.close(reading)
        _end(child, user)
    return result(data, kind)


def _end(child: int, user: User) -> None:
    try:
        os.kill(child, signal.SIGKILL)
    except PermissionError:
        # Without CAP_KILL only a process of the same user may.
        killer = os.fork()
        if killer == 0:
            try:
                privileges.give_up(user)
                os.kill(child, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)
    os.waitpid(child, 0)


def result(data: bytes, kind: type[Value]) -> Value:
    """Decode the answer of the child process; raises as ``call`` does."""
    try:
        answer = msgspec.json.decode(data, type=_Answer)
        if answer.error:
            raise _ERRORS.get(answer.kind, FlowstreamError)(answer.error)
        return msgspec.json.decode(answer.value, type=kind)
    except UNDECODABLE as err:
        raise FlowstreamError("the process without privileges ended without an answer") from err


def _child(parent: int, user: User, work: Callable[[], object], writing: int) -> None:
    """Write the answer and end the process, without the parent's clean-up."""
    try:
        privileges.give_up(user)
        privileges.end_with_parent()
        if os.getppid() == parent:
            _write(writing, _answer(work))
    except KeyboardInterrupt:
        # The parent receives the signal too.
        os._exit(1)
    except BaseException:  # noqa: BLE001 - nothing may reach the parent's handlers
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _answer(work: Callable[[], object]) -> bytes:
    try:
        answer = _Answer(value=msgspec.Raw(msgspec.json.encode(work())))
    except FlowstreamError as err:
        answer = _Answer(error=str(err) or "failed", kind=type(err).__name__)
    return msgspec.json.encode(answer)


def _write(writing: int, data: bytes) -> None:
    while data:
        data = data[os.write(writing, data) :]


def _read(reading: int, within_s: float | None) -> bytes:
    """Read up to the end; ``TimeoutError`` when that takes longer than ``within_s``."""
    deadline = None if within_s is None else time.monotonic() + within_s
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    data = bytearray()
    while len(data) < _MOST:
        left_ms = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
        if not poll.poll(left_ms):
            raise TimeoutError
        if not (part := os.read(reading, 1 << 16)):
            break
        data += part
    return bytes(data)

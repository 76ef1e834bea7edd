"""The sink for people and pipes: one JSON line per record on standard output."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting import terms
from flowstream.delivery.condition import Condition
from flowstream.delivery.worker import Worker
from flowstream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.messages import MessageBatch

log = structlog.get_logger(__name__)


class StdoutSink:
    """Writes every value as a line; see ``flowstream.sink.Sink``.

    When the reader goes away, ``fault`` says so and all further records fail by
    "pipe_closed".
    """

    def __init__(self, outcomes: Outcomes[MessageBatch]) -> None:
        self._outcomes = outcomes
        self._worker: Worker[MessageBatch] | None = None
        self._descriptor = -1
        # The reader is gone.
        self._closed = False
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why nothing can be written any more; None while records can be written."""
        return self._fault

    @property
    def condition(self) -> Condition:
        """See ``flowstream.sink.Sink``."""
        return Condition.FAILED if self._fault else Condition.PUBLISHING

    def prepare(self, topics: Sequence[str]) -> None:  # noqa: ARG002 - lines name no topic
        """Raise ``SinkError`` when standard output is closed."""
        self._find_output()

    def load(self) -> None:
        """Do nothing: everything is imported already."""

    async def start(self, topics: Sequence[str]) -> None:  # noqa: ARG002 - lines name no topic
        """Take standard output; ``SinkError`` when it is closed."""
        self._find_output()
        self._worker = Worker("stdout-sink", self._write, self._outcomes, self._fail)

    def partitions(self, topic: str) -> int:  # noqa: ARG002 - lines name no partition
        """Return 1."""
        return 1

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while the reader is slow."""
        if self._worker is None:
            self._outcomes.failed(batch, slice(0, len(batch)), terms.SHUTDOWN)
            return
        await self._worker.put(batch)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Wait until everything is written; give up by "shutdown" after ``timeout`` seconds."""
        if self._worker is not None:
            await self._worker.flush(timeout, terms.SHUTDOWN)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then stop writing."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.refuse()
        await worker.flush(timeout, terms.SHUTDOWN)
        worker.end()

    def _find_output(self) -> None:
        try:
            sys.stdout.flush()
            self._descriptor = sys.stdout.fileno()
            access = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        except (OSError, ValueError, AttributeError):
            access = os.O_RDONLY
        if access == os.O_RDONLY:
            raise SinkError("stdout: standard output is closed; open it")

    def _write(self, batch: MessageBatch) -> tuple[int, str]:
        if self._closed:
            return 0, terms.PIPE_CLOSED
        lines = b"\n".join(value or b"" for value in batch.values) + b"\n"
        done = 0
        try:
            while done < len(lines):
                done += self._write_some(lines, done)
        except OSError as err:
            # A line that was cut short does not count as written.
            written = lines.count(b"\n", 0, done)
            if err.errno != errno.EPIPE:
                log.warning("stdout_write_failed", error=err.strerror)
                return written, terms.IO_ERROR
            self._closed = True
            self._fail("the reader has closed the pipe")
            return written, terms.PIPE_CLOSED
        return len(batch), ""

    def _fail(self, why: str) -> None:
        if self._fault is None:
            self._fault = f"stdout: {why}"

    def _write_some(self, lines: bytes, start: int) -> int:
        try:
            return os.write(self._descriptor, memoryview(lines)[start:])
        except BlockingIOError:
            # Another process that shares the terminal or pipe made it non-blocking.
            select.select([], [self._descriptor], [])
            return 0

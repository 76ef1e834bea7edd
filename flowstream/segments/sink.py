"""The directory sink: writes a recording, Kafka log segments in a directory."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting import terms
from flowstream.compression import COMPRESSION
from flowstream.delivery.condition import Condition
from flowstream.delivery.worker import Worker
from flowstream.errors import SinkError, SourceError
from flowstream.segments.claim import Lock, check_contents
from flowstream.segments.directory import Directory
from flowstream.segments.encoding import load
from flowstream.segments.reader import SEGMENT_NAME, partitions_among
from flowstream.segments.retention import Retention
from flowstream.segments.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowstream.accounting.outcomes import Outcomes
    from flowstream.messages import MessageBatch

log = structlog.get_logger(__name__)

RETENTION_PERIOD_S = 1.0
"""Seconds between two looks at the limits of the recording."""


class SegmentSink:
    """Writes TOPIC-PARTITION/BASE_OFFSET.log below ``directory``; see ``flowstream.sink.Sink``.

    It continues an existing recording. One process at a time writes; a directory
    that contains anything else is refused. Acknowledged means handed to the
    operating system; ``flush`` and ``close`` make the files durable. No link below
    ``directory`` is followed. ``retention`` limits the topics that it writes and
    the octets of a segment, unless ``segment_bytes`` is given. ``compression`` is
    that of new batches.
    """

    def __init__(
        self,
        directory: Path,
        outcomes: Outcomes[MessageBatch],
        *,
        partitions: int | Mapping[str, int],
        owner: tuple[int, int] | None = None,
        segment_bytes: int | None = None,
        retention: Retention | None = None,
        compression: str = COMPRESSION,
    ) -> None:
        self._directory = directory
        self._outcomes = outcomes
        self._wanted = partitions
        self._owner = owner
        self._segment_bytes = segment_bytes
        self._retention = retention or Retention()
        self._compression = compression
        self._retained_at = 0.0
        self._retaining = True
        self._partitions: dict[str, int] = {}
        self._root: Directory | None = None
        self._writers: dict[tuple[str, int], SegmentWriter] = {}
        self._lock: Lock | None = None
        self._fault: str | None = None
        self._worker: Worker[MessageBatch] | None = None
        self._failing = False
        # The files are open and no thread writes to them yet.
        self._prepared = False

    @property
    def fault(self) -> str | None:
        """Why acknowledged records may not be durable or nothing can be written; else None."""
        return self._fault

    @property
    def condition(self) -> Condition:
        """See ``flowstream.sink.Sink``."""
        return Condition.FAILED if self._fault else Condition.PUBLISHING

    def prepare(self, topics: Sequence[str]) -> None:
        """Create or continue the recording; ``SinkError`` before anything is changed."""
        try:
            self._open(topics)
        except BaseException:
            self._close_files()
            raise
        self._prepared = True

    def load(self) -> None:
        """Import the encoder of record batches."""
        load(self._compression)

    async def start(self, topics: Sequence[str]) -> None:
        """Begin to write; calls ``prepare`` unless that was done."""
        if not self._prepared:
            await asyncio.to_thread(self.prepare, topics)
        self.load()
        self._worker = Worker("segment-sink", self._write, self._outcomes, self._fail)
        self._prepared = False

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of ``topic``."""
        return self._partitions[topic]

    async def send(self, batch: MessageBatch) -> None:
        """Accept ``batch``; wait while the disk is slow."""
        if self._worker is None:
            self._outcomes.failed(batch, slice(0, len(batch)), terms.SHUTDOWN)
            return
        await self._worker.put(batch)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Write everything and make it durable; give up by "shutdown" after ``timeout`` s."""
        if self._worker is not None:
            await self._flush(self._worker, timeout)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound, not a cancel
        """Flush, then close the files and release the lock."""
        worker, self._worker = self._worker, None
        if worker is None:
            if self._prepared:
                self._close_files()
                self._prepared = False
            return
        worker.refuse()
        left, durable = await self._flush(worker, timeout)
        if not durable:
            self._fail("the disk did not answer in time: the recording may not be durable")
        # The thread closes: it may still be in the middle of a write.
        await worker.run(self._close_files, max(left, 0.1))
        worker.end()

    async def _flush(self, worker: Worker[MessageBatch], timeout: float) -> tuple[float, bool]:  # noqa: ASYNC109
        """Return the seconds left of ``timeout``, and whether the disk answered."""
        now = asyncio.get_running_loop().time
        deadline = now() + timeout
        given_up = await worker.flush(timeout, terms.SHUTDOWN)
        if given_up.failed:
            log.warning("recording_records_failed", cause=terms.SHUTDOWN, records=given_up.failed)
        if given_up.in_doubt:
            log.warning(
                "recording_records_in_doubt", cause=terms.SHUTDOWN, records=given_up.in_doubt
            )
        answered = await worker.run(self._sync, max(deadline - now(), 0.1))
        if not answered:
            log.warning("recording_not_durable", error="the disk did not answer in time")
        return deadline - now(), answered

    def _open(self, topics: Sequence[str]) -> None:
        try:
            root = self._root = Directory.open(self._directory, self._owner)
            check_contents(root, f"file:{self._directory}", "recording", SEGMENT_NAME)
            self._lock = Lock(root, f"file:{self._directory}")
            counts = {topic: self._count(root, topic) for topic in topics}
            size = self._segment_bytes or self._retention.segment_bytes(sum(counts.values()))
            for topic, count in counts.items():
                self._open_topic(root, topic, count, size)
        except SourceError as err:
            raise SinkError(f"{err}; record to another directory") from err
        except OSError as err:
            raise SinkError(
                f"file:{self._directory}: {err.strerror}: {err.filename}; "
                "use a directory that can be created and written"
            ) from err

    def _count(self, root: Directory, topic: str) -> int:
        """Return the number of partitions of a topic."""
        present = partitions_among(root.names(), topic)
        wanted = self._wanted if isinstance(self._wanted, int) else self._wanted[topic]
        count = present[-1] + 1 if present else wanted
        # A copy of a broker's directory may lack partitions, which are created.
        if len(present) < count > wanted:
            raise SinkError(
                f"file:{self._directory}: {topic}-{present[-1]} is there, and only "
                f"{len(present):,} partitions of this topic; use another directory, or "
                f"--partitions {count} if the topic has so many"
            )
        return count

    def _open_topic(self, root: Directory, topic: str, count: int, segment_bytes: int) -> None:
        for partition in range(count):
            self._writers[topic, partition] = SegmentWriter(
                root.directory(f"{topic}-{partition}"),
                segment_bytes=segment_bytes,
                compression=self._compression,
            )
        self._partitions[topic] = count

    def _write(self, batch: MessageBatch) -> tuple[int, str]:
        writer = self._writers[batch.topic, batch.partition]
        closed = len(writer.closed)
        written, error = writer.append(batch)
        # Log only when it begins and when it ends: a full disk fails every batch.
        if (error is not None) != self._failing:
            self._failing = error is not None
            if error is not None:
                log.error("recording_write_failed", error=error.strerror, topic=batch.topic)
            else:
                log.info("recording_write_recovered", topic=batch.topic)
        beyond = self._retention.exceeded(self._writers.values())
        self._retain(at_once=beyond or len(writer.closed) > closed)
        return written, terms.IO_ERROR

    def _retain(self, *, at_once: bool) -> None:
        """Delete segments beyond the limits, at once or every so often."""
        now = time.monotonic()
        if not at_once and now - self._retained_at < RETENTION_PERIOD_S:
            return
        self._retained_at = now
        try:
            deleted = self._retention.apply(self._writers.values(), time.time_ns() // 1_000_000)
            for writer, segment in deleted:
                log.info(
                    "recording_segment_deleted", file=str(writer.path / segment.name),
                    octets=segment.size, newest_ms=segment.newest_ms,
                )  # fmt: skip
            self._retaining = True
        except (OSError, SinkError) as err:
            if self._retaining:
                log.error("recording_retention_failed", error=str(err))  # noqa: TRY400 - as above
            self._retaining = False

    def _sync(self) -> None:
        for (topic, partition), writer in self._writers.items():
            try:
                writer.sync()
            except OSError as err:
                log.error(  # noqa: TRY400 - a fault of the disk: a traceback adds nothing
                    "recording_not_durable", topic=topic, partition=partition, error=err.strerror
                )
                self._fail(f"the recording may not be durable: {err.strerror}")

    def _fail(self, why: str) -> None:
        if self._fault is None:
            self._fault = f"file:{self._directory}: {why}"

    def _close_files(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._lock is not None:
            self._lock.close()
        if self._root is not None:
            self._root.close()

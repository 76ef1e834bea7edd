"""Writing one partition of a recording: Kafka log segments as a broker writes them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import structlog

from flowstream.compression import COMPRESSION
from flowstream.segments.batches import HEADER
from flowstream.segments.directory import write_at
from flowstream.segments.encoding import encode
from flowstream.segments.reader import SEGMENT_NAME, SegmentReader, newest_ms

if TYPE_CHECKING:
    from pathlib import Path

    from flowstream.messages import MessageBatch
    from flowstream.segments.directory import Directory

log = structlog.get_logger(__name__)

# A broker's default segment.bytes.
SEGMENT_BYTES = 1 << 30


class ClosedSegment(NamedTuple):
    """A segment that is not written any more."""

    name: str
    size: int
    newest_ms: int


class SegmentWriter:
    """Appends to the segments in ``directory``, which it closes; for use from one thread.

    It continues existing segments: a last batch that is cut short is removed, with
    a warning; other damage raises ``SourceError``, and nothing is changed. Raises
    ``OSError`` where the file system refuses, ``SinkError`` for a link.
    ``compression`` is that of new batches. ``closed`` has the segments before the
    active one, the oldest first.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        compression: str = COMPRESSION,
    ) -> None:
        self._directory = directory
        self._compression = compression
        self._segment_bytes = segment_bytes
        self._next_offset = 0
        self._end = 0
        self.closed: list[ClosedSegment] = []
        self.began_ms: int | None = None
        """First timestamp of the active segment, None while it is empty."""
        self._newest_ms = 0
        # Why a complete segment may not be durable.
        self._unsure: OSError | None = None
        self._file, self._active = -1, ""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def append(self, batch: MessageBatch) -> tuple[int, OSError | None]:
        """Write the batch's records; return how many, and the error of the others."""
        written = 0
        while written < len(batch):
            data, count = encode(batch, written, self._next_offset, self._compression)
            try:
                self._write(data)
                self._note_times(*HEADER.unpack_from(data)[7:9])
            except OSError as err:
                return written, err
            self._next_offset += count
            written += count
        return written, None

    @property
    def path(self) -> Path:
        """The partition's directory, for messages."""
        return self._directory.path

    @property
    def size(self) -> int:
        """Octets of all segments."""
        return self._end + sum(segment.size for segment in self.closed)

    def roll(self) -> None:
        """Close the active segment and begin a new one."""
        full, name = self._file, self._active
        self._file = self._create()
        self.closed.append(ClosedSegment(name, self._end, self._newest_ms))
        self._end, self.began_ms, self._newest_ms = 0, None, 0
        try:
            os.fsync(full)
        except OSError as err:
            # Not a fault of the batch that is written next.
            self._unsure = err
        finally:
            os.close(full)

    def delete_oldest(self) -> ClosedSegment:
        """Delete the oldest closed segment."""
        self._directory.remove(self.closed[0].name)
        return self.closed.pop(0)

    def sync(self) -> None:
        """Make everything durable; ``OSError``, once, when that is not certain."""
        os.fsync(self._file)
        unsure, self._unsure = self._unsure, None
        if unsure is not None:
            raise unsure

    def close(self) -> None:
        """Close the file without making it durable; harmless twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._directory.close()

    def _write(self, data: bytearray) -> None:
        if self._end and self._end + len(data) > self._segment_bytes:
            self.roll()
        try:
            end = write_at(self._file, data, self._end)
        except OSError:
            # If even this fails, the next batch overwrites the rest.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end = end

    def _note_times(self, first_ms: int, newest_ms: int) -> None:
        if self.began_ms is None:
            self.began_ms = first_ms
        self._newest_ms = max(self._newest_ms, newest_ms)

    def _create(self) -> int:
        self._active = f"{self._next_offset:020}.log"
        return self._directory.create(self._active)

    def _close_existing(self, name: str) -> None:
        with self._directory.opened(name) as descriptor:
            size = os.fstat(descriptor).st_size
            self.closed.append(ClosedSegment(name, size, newest_ms(descriptor)))

    def _open(self) -> None:
        segments = [name for name in self._directory.names() if SEGMENT_NAME.fullmatch(name)]
        for name in segments[:-1]:
            self._close_existing(name)
        if segments:
            self._active = segments[-1]
            self._file = self._directory.file(self._active)
            self._continue(self._directory.path / self._active)
        else:
            self._file = self._create()

    def _continue(self, path: Path) -> None:
        """Continue after the last whole batch and remove a torn one; ``path`` is for messages."""
        reader = SegmentReader(path, descriptor=self._file)
        for batch in reader:
            self._note_times(batch.first_timestamp_ms, batch.max_timestamp_ms)
        if reader.torn:
            size = os.fstat(self._file).st_size
            os.ftruncate(self._file, reader.position)
            log.warning(
                "recording_torn_batch_removed",
                file=str(path),
                next_offset=reader.next_offset,
                bytes=size - reader.position,
            )
        self._next_offset, self._end = reader.next_offset, reader.position

"""Retention of recordings: the oldest segments are deleted, as by a broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowstream.segments.writer import SEGMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from flowstream.segments.writer import ClosedSegment, SegmentWriter

MIN_SEGMENT_BYTES: Final = 1 << 20
ACTIVE_SHARE: Final = 4
"""Active segments take up to a fourth of the size; records may stay a fourth of the age longer."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of a recording, None for no limit; an active segment is never deleted.

    ``size`` in octets over all partitions; ``age_ms`` of the newest record in a segment.
    """

    size: int | None = None
    age_ms: int | None = None

    def segment_bytes(self, partitions: int) -> int:
        """Return the size of a segment, so small that enough of them are closed."""
        if self.size is None:
            return SEGMENT_BYTES
        share = self.size // (ACTIVE_SHARE * max(partitions, 1))
        return min(max(share, MIN_SEGMENT_BYTES), SEGMENT_BYTES)

    def exceeded(self, writers: Collection[SegmentWriter]) -> bool:
        """Say whether the partitions together are beyond the size."""
        return self.size is not None and sum(writer.size for writer in writers) > self.size

    def apply(
        self, writers: Collection[SegmentWriter], now_ms: int
    ) -> Iterator[tuple[SegmentWriter, ClosedSegment]]:
        """Delete what is beyond the limits; yield each segment once it is gone.

        Raises ``OSError`` where the file system refuses.
        """
        if self.age_ms is not None:
            yield from self._by_age(writers, now_ms, self.age_ms)
        if self.size is not None:
            yield from self._by_size(writers, self.size)

    def _by_age(
        self, writers: Collection[SegmentWriter], now_ms: int, age_ms: int
    ) -> Iterator[tuple[SegmentWriter, ClosedSegment]]:
        for writer in writers:
            # Otherwise a partition with few records would keep them forever.
            if writer.began_ms is not None and writer.began_ms < now_ms - age_ms // ACTIVE_SHARE:
                writer.roll()
            while writer.closed and writer.closed[0].newest_ms < now_ms - age_ms:
                yield writer, writer.delete_oldest()

    def _by_size(
        self, writers: Collection[SegmentWriter], size: int
    ) -> Iterator[tuple[SegmentWriter, ClosedSegment]]:
        total = sum(writer.size for writer in writers)
        while total > size:
            closed = [writer for writer in writers if writer.closed]
            if not closed:
                return
            oldest = min(closed, key=lambda writer: writer.closed[0].newest_ms)
            segment = oldest.delete_oldest()
            total -= segment.size
            yield oldest, segment

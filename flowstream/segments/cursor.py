"""Position of the reader in one partition of the spool."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from flowstream.segments.index import Missing
from flowstream.segments.stored import Reached, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.segments.directory import Directory
    from flowstream.segments.settled import Settled
    from flowstream.segments.stored import Segment
    from flowstream.segments.tallies import Located
    from flowstream.streams import Stream


class Cursor:
    """Goes through ``segments``, also those that are added, and leaves out what is settled.

    Memory: the index of one segment.
    """

    def __init__(
        self,
        directory: Directory,
        segments: Sequence[Segment],
        settled: Settled,
        stream: Stream | None,
    ) -> None:
        self._directory = directory
        self._segments = segments
        self._settled = settled
        self._stream = stream
        self._current: Segment | None = None
        self._reached = Reached(0)
        self._queue: deque[Located | Missing] = deque()

    def peek(self) -> tuple[Segment, Located | Missing] | None:
        """Return the next item and its segment, None at the end; ``OSError`` as ``items``."""
        while True:
            while self._queue and self._current is not None:
                item = self._queue[0]
                begin, end = _range_of(item)
                if begin < end and not self._settled.covers(begin, end):
                    return self._current, item
                self._queue.popleft()
            if not self._load():
                return None

    def take(self) -> None:
        """Go on behind the item that ``peek`` returned."""
        self._queue.popleft()

    def _load(self) -> bool:
        """Read more of the index; False when there is nothing more."""
        segment = self._next_segment()
        if segment is None:
            return False
        reached = self._reached if segment is self._current else Reached(segment.base)
        found = whole(self._directory, segment, reached, self._stream)
        self._current, self._reached = segment, reached
        self._queue.extend(found)
        return True

    def _next_segment(self) -> Segment | None:
        """Return the first segment that has something behind what was reached."""
        begin = 0
        if self._current is not None:
            begin = bisect_left(self._segments, self._current.base, key=_base_of)
        for segment in islice(self._segments, begin, None):
            if segment is self._current and self._reached.offset >= segment.end:
                continue
            if not segment.given_up and not self._settled.covers(segment.base, segment.end):
                return segment
        return None


def _base_of(segment: Segment) -> int:
    return segment.base


def _range_of(item: Located | Missing) -> tuple[int, int]:
    if isinstance(item, Missing):
        return item.base_offset, item.end
    return item.entry.base_offset, item.entry.end

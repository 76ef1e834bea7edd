"""Writes at the end of a partition of the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowstream.closing import Closing
from flowstream.segments import stored
from flowstream.segments.active import ActiveSegment
from flowstream.segments.encoding import encode
from flowstream.segments.stored import Segment
from flowstream.segments.tallies import Entry, pack_entry, sums_of

if TYPE_CHECKING:
    from flowstream.messages import MessageBatch
    from flowstream.segments.directory import Directory


class Limits(NamedTuple):
    """How segments are written: their size in octets, and the compression of batches."""

    segment_bytes: int
    compression: str


class Origin(NamedTuple):
    """Run that made the records, and whether they may have been published already."""

    agent_epoch: int
    in_doubt: bool


class Tail(Closing):
    """Appends to ``segments``; never to a segment of an earlier run."""

    def __init__(self, directory: Directory, segments: list[Segment], limits: Limits) -> None:
        self._directory = directory
        self._segments = segments
        self._limits = limits
        self._active: ActiveSegment | None = None
        # Files were created since the directory was last made durable.
        self._created = False
        # The last segment of an earlier run, which may not have made it durable.
        self._inherited: int | None = None
        # Why segments may not be durable, by their base.
        self._unsure: dict[int, OSError] = {}

    def append(
        self, batch: MessageBatch, start: int, offset: int, origin: Origin
    ) -> tuple[Entry, int]:
        """Write one record batch of records from ``start`` on, the first at ``offset``.

        Return its entry, and the octets that both files grew by. ``OSError``, and
        nothing is written.
        """
        data, count = encode(batch, start, offset, self._limits.compression)
        active = self._active_for(offset, len(data))
        part = slice(start, start + count)
        times = batch.timestamps_ms[part]
        tally = None if batch.tally is None else batch.tally[part]
        sums = () if tally is None else sums_of(dict(tally.sums()))
        entry = Entry(
            offset, count, active.position, len(data), times[0], max(times),
            origin.agent_epoch, batch.stream, origin.in_doubt,
            sums,
        )  # fmt: skip
        active.append(pack_entry(entry, tally), data)
        segment = self._segments[-1]
        grown = active.octets - segment.octets
        segment.end, segment.octets = entry.end, active.octets
        segment.note(entry.first_ms, entry.newest_ms)
        return entry, grown

    def roll(self, began_before_ms: int) -> None:
        """Close the active segment if its records begin before that time."""
        if self._active is not None:
            began_ms = self._segments[-1].oldest_ms
            if began_ms is not None and began_ms < began_before_ms:
                self._complete()

    def inherit(self, base: int) -> None:
        """Make a segment durable by the next ``sync``: an earlier run was killed."""
        self._inherited = base
        self._created = True

    def sync(self) -> None:
        """Make everything durable; ``OSError`` as long as a segment may not be."""
        if self._inherited is not None:
            base, self._inherited = self._inherited, None
            try:
                stored.sync(self._directory, base)
            except OSError as err:
                self._unsure[base] = err
        if self._active is not None:
            self._sync(self._active)
        if self._created:
            self._directory.sync()
            self._created = False
        for error in self._unsure.values():
            raise error

    def forget(self, segment: Segment) -> None:
        """Close the files of a segment that will be deleted."""
        self._unsure.pop(segment.base, None)
        if segment.base == self._inherited:
            self._inherited = None
        if segment is self._segments[-1]:
            self.close()

    def close(self) -> None:
        """Close the files without making them durable; harmless twice."""
        if self._active is not None:
            self._active.close()
            self._active = None

    def _active_for(self, offset: int, octets: int) -> ActiveSegment:
        """Return the active segment; a new one where the batch finds no room."""
        if (
            self._active is not None
            and self._active.position
            and self._active.position + octets > self._limits.segment_bytes
        ):
            self._complete()
        if self._active is None:
            if self._segments and self._segments[-1].end == self._segments[-1].base:
                # Nothing could be written to it, and the new one has the same name.
                stored.remove(self._directory, self._segments[-1].base)
                self._segments.pop()
            self._active = ActiveSegment(self._directory, offset)
            self._created = True
            self._segments.append(Segment(offset, offset))
        return self._active

    def _complete(self) -> None:
        if self._active is not None:
            self._sync(self._active)
            self.close()

    def _sync(self, active: ActiveSegment) -> None:
        """Remember a fault: the kernel tells it once and may have dropped the octets."""
        try:
            active.sync()
        except OSError as err:
            self._unsure[self._segments[-1].base] = err
            self.close()

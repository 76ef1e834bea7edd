"""One partition of the spool: appends, reads, and settles what was read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting import terms
from flowstream.closing import Closing
from flowstream.segments import stored
from flowstream.segments.checkpoint import Position
from flowstream.segments.cursor import Cursor
from flowstream.segments.index import Missing
from flowstream.segments.recovery import Found, recover
from flowstream.segments.settled import Settled
from flowstream.segments.spooled import Lost, Place, SpooledBatch, Stock, keyed
from flowstream.segments.stored import Reached, Segment, log_name, read_batch, stream_of, whole
from flowstream.segments.tail import Limits, Origin, Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.messages import MessageBatch
    from flowstream.segments.directory import Directory
    from flowstream.segments.spooled import Inventory
    from flowstream.segments.tallies import Entry, Located

log = structlog.get_logger(__name__)


class SpoolPartition(Closing):
    """A partition in ``directory``, which it closes; ``position`` is that of the checkpoint."""

    def __init__(
        self,
        directory: Directory,
        topic: str,
        partition: int,
        position: Position,
        inventory: Inventory,
        limits: Limits,
    ) -> None:
        self._directory = directory
        self._topic, self._partition = topic, partition
        self._settled = Settled(position.next, position.beyond)
        self._inventory = inventory
        self._stream = stream_of(topic)
        self._segments: list[Segment] = []
        self._tail = Tail(directory, self._segments, limits)
        self._cursor = Cursor(directory, self._segments, self._settled, self._stream)
        # Where a torn batch is cut off, by the base of its segment.
        self._cuts: dict[int, int] = {}
        # What was read and has no outcome yet, with its segment, by base offset.
        self._in_flight: dict[int, tuple[Segment, Entry]] = {}
        # Base offsets of batches that were sent and not answered, also by an earlier run.
        self._doubtful = set(position.doubtful)
        self.octets = 0
        """Octets of the segments and sidecars that are not given up."""

    def open(self) -> None:
        """Find what is there; ``OSError`` and ``SinkError`` where it cannot be read."""
        self._directory.require_access()
        end: int | None = None
        for found in recover(self._directory, self._stream):
            segment = found.segment
            if end is None:
                # Whatever was deleted before the first segment had been published.
                self._settled.add(self._settled.next, segment.base)
            elif not self._settled.covers(end, segment.base):
                what = f"offsets from {end} on are missing before it"
                stored.report_damage(self._directory, segment, 0, what)
                self._lose_offsets(end, segment.base)
            self._take(found)
            self._tail.inherit(segment.base)
            end = segment.end
        if end is None:
            end = self._settled.next
        self._settled.add(end, self._settled.end)

    def append(self, batch: MessageBatch, origin: Origin) -> tuple[int, OSError | None]:
        """Write the batch's records; return how many, and the error of the others."""
        written = 0
        while written < len(batch):
            try:
                entry, octets = self._tail.append(batch, written, self._next_offset, origin)
            except OSError as err:
                return written, err
            self._add(self._segments[-1], entry)
            self.octets += octets
            written += entry.records
        return written, None

    def next_ms(self) -> int | None:
        """Return the first time in the next unread batch, None without one.

        Raises ``OSError`` where it cannot be read now.
        """
        found = self._cursor.peek()
        if found is None:
            return None
        return 0 if isinstance(found[1], Missing) else found[1].entry.first_ms

    def read(self) -> SpooledBatch | None:
        """Take the next unread batch; None where it is damaged, or nothing is unread."""
        found = self._cursor.peek()
        if found is None:
            return None
        segment, item = found
        if isinstance(item, Missing):
            self._cursor.take()
            self._lose_vanished(segment, item)
            return None
        return self._read(segment, item)

    def acknowledge(self, base_offset: int) -> None:
        """Settle a batch that was read."""
        self._settle(*self._in_flight.pop(base_offset))

    def doubt(self, base_offset: int) -> None:
        """Note that a batch was sent and not answered."""
        self._doubtful.add(base_offset)

    def waiting(self) -> Iterator[Segment]:
        """Yield the segments whose records wait."""
        for segment in self._segments:
            if not segment.given_up and not self._settled.covers(segment.base, segment.end):
                yield segment

    def oldest(self) -> Segment | None:
        """Return the first segment whose records wait, None without one."""
        return next(self.waiting(), None)

    def give_up_deleted(self) -> None:
        """Lose what is unread in segments that somebody deleted."""
        names = set(self._directory.names())
        for segment in [each for each in self.waiting() if log_name(each.base) not in names]:
            stored.report_damage(self._directory, segment, 0, "the file was deleted")
            self.give_up(segment, terms.SPOOL_DAMAGED)

    def give_up(self, segment: Segment, cause: str) -> None:
        """Lose what is unread in a segment; what is in flight still gets its outcome."""
        for item in whole(self._directory, segment, Reached(segment.base), self._stream):
            if isinstance(item, Missing):
                self._lose_vanished(segment, item)
            elif item.entry.base_offset not in self._in_flight:
                self._lose(segment, item.entry, cause)
        segment.given_up = True
        self.octets -= segment.octets
        self._tail.forget(segment)

    def roll(self, began_before_ms: int) -> None:
        """Close the active segment if its records begin before that time."""
        self._tail.roll(began_before_ms)

    def sync(self) -> None:
        """Make everything durable; ``OSError`` as long as a segment may not be."""
        self._tail.sync()

    def delete(self, *, lossy: bool) -> None:
        """Delete settled segments; without ``lossy`` up to one with records that are gone."""
        while self._segments and self._segments[0].end <= self._settled.next:
            segment = self._segments[0]
            if segment.lossy and not lossy:
                return
            self._tail.forget(segment)
            stored.remove(self._directory, segment.base)
            if self._segments and self._segments[0] is segment:
                self._segments.pop(0)
            if not segment.given_up:
                self.octets -= segment.octets
            self._cuts.pop(segment.base, None)

    def cut(self) -> None:
        """Cut torn batches off, so that every reader of recordings reads the segment."""
        for base, position in list(self._cuts.items()):
            with self._directory.opened(log_name(base), writable=True) as descriptor:
                os.ftruncate(descriptor, position)
            del self._cuts[base]

    @property
    def position(self) -> Position:
        """What the checkpoint keeps of it."""
        return Position(self._settled.next, self._settled.beyond, sorted(self._doubtful))

    def close(self) -> None:
        """Close the files; harmless twice."""
        self._tail.close()
        self._directory.close()

    @property
    def _next_offset(self) -> int:
        end = self._segments[-1].end if self._segments else 0
        return max(end, self._settled.end)

    def _take(self, found: Found) -> None:
        """Take a segment of an earlier run over; what is wrong with it is lost now."""
        segment = found.segment
        self._segments.append(segment)
        self.octets += segment.octets
        for item in found.items:
            if isinstance(item, Missing):
                stored.report_damage(self._directory, segment, item.position, "no batch")
                self._lose_offsets(item.base_offset, item.end, segment)
                continue
            entry = item.entry
            if self._is_settled(entry):
                continue
            self._add(segment, entry)
            if entry.position == found.torn_at:
                self._lose(segment, entry, terms.SPOOL_DAMAGED)
        if found.torn_at is not None:
            self._cuts[segment.base] = found.torn_at
            log.warning(
                "spool_torn_batch", file=str(self._directory.path / log_name(segment.base)),
                position=found.torn_at,
            )  # fmt: skip

    def _read(self, segment: Segment, located: Located) -> SpooledBatch | None:
        entry = located.entry
        try:
            batch = read_batch(self._directory, segment, located, self._topic, self._partition)
        except ValueError as err:
            self._cursor.take()
            stored.report_damage(self._directory, segment, entry.position, str(err))
            self._lose(segment, entry, terms.SPOOL_DAMAGED)
            return None
        self._cursor.take()
        self._in_flight[entry.base_offset] = (segment, entry)
        place = Place(self._topic, self._partition, entry.base_offset)
        in_doubt = self._is_doubtful(entry)
        return SpooledBatch(batch, entry.agent_epoch, in_doubt, place, entry.amounts())

    def _add(self, segment: Segment, entry: Entry) -> None:
        segment.in_doubt |= entry.in_doubt
        for stock in (segment.stock, self._inventory.stock):
            stock.add(entry.records, keyed(entry))

    def _settle(self, segment: Segment, entry: Entry) -> None:
        self._settled.add(entry.base_offset, entry.end)
        self._doubtful.discard(entry.base_offset)
        for stock in (segment.stock, self._inventory.stock):
            stock.add(entry.records, keyed(entry), sign=-1)

    def _is_settled(self, entry: Entry) -> bool:
        return self._settled.covers(entry.base_offset, entry.end)

    def _is_doubtful(self, entry: Entry) -> bool:
        return entry.in_doubt or entry.base_offset in self._doubtful

    def _lose(self, segment: Segment, entry: Entry, cause: str) -> None:
        if self._is_settled(entry):
            return
        segment.lossy = True
        in_doubt = self._is_doubtful(entry)
        lost = Lost(entry.agent_epoch, entry.stream, in_doubt, cause, entry.records, entry.sums)
        self._inventory.losses.add(lost)
        self._settle(segment, entry)

    def _lose_offsets(self, begin: int, end: int, segment: Segment | None = None) -> None:
        for low, high in self._settled.open_parts(begin, end):
            lost = Lost(None, self._stream, False, terms.SPOOL_DAMAGED, high - low, ())
            self._inventory.losses.add(lost)
            self._settled.add(low, high)
            if segment is not None:
                segment.lossy = True

    def _lose_vanished(self, segment: Segment, missing: Missing) -> None:
        """Lose records that wait and are not in the files any more, except those in flight.

        Their amounts are known where nothing else of the segment waits.
        """
        settled = Settled(self._settled.next, self._settled.beyond)
        stock = segment.stock.copy()
        for other, entry in self._in_flight.values():
            if other is segment:
                settled.add(entry.base_offset, entry.end)
                stock.add(entry.records, keyed(entry), sign=-1)
        if not (parts := settled.open_parts(missing.base_offset, missing.end)):
            return
        stored.report_damage(self._directory, segment, missing.position, "no batch")
        records = sum(end - begin for begin, end in parts)
        if records != stock.records:
            stock = Stock()
            stock.records = records
        in_doubt = segment.in_doubt or any(
            begin <= base < end for begin, end in parts for base in self._doubtful
        )
        for lost in stock.lost(self._stream, terms.SPOOL_DAMAGED, in_doubt=in_doubt):
            self._inventory.losses.add(lost)
        for each in (segment.stock, self._inventory.stock):
            each.add(records, stock.amounts.items(), sign=-1)
        for begin, end in parts:
            self._settled.add(begin, end)
            self._doubtful -= {base for base in self._doubtful if begin <= base < end}
        segment.lossy = True

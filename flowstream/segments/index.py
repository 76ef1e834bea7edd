"""Index of a segment of the spool: its batches by the sidecar, and by the segment itself.

What the sidecar does not know, because an entry is missing or damaged, is read from the
headers of the batches, as far as they make sense.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from flowstream.segments.batches import HEADER, LENGTH_END, MAGIC, MAGIC_POSITION
from flowstream.segments.tallies import MAX_OCTETS, MAX_RECORDS, Entry, Located

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowstream.streams import Stream


class Missing(NamedTuple):
    """Offsets from ``base_offset`` to ``end``, exclusive, that cannot be read.

    ``position`` is where in the segment they would begin. Without offsets (``end`` is
    ``base_offset``) it is unknown how many records are missing.
    """

    base_offset: int
    end: int
    position: int


class Span(NamedTuple):
    """A part of a segment: from a position and the offset there to the end of the file."""

    position: int
    offset: int
    size: int


def index(
    log: int | None, span: Span, known: Iterable[Located], stream: Stream | None
) -> Iterator[Located | Missing]:
    """Yield what is in a segment, in order, without gaps.

    ``log`` is the segment's descriptor, None where the file is missing: then
    ``span.size`` is 0, and every entry counts. An entry whose batch is not there at all
    is left out; one whose batch is cut short is not. ``stream`` is that of batches
    without an entry.
    """
    position, offset = span.position, span.offset
    for located in known:
        entry = located.entry
        if entry.position < position or entry.base_offset < offset:
            continue
        if log is not None and entry.position >= span.size:
            continue
        if entry.position > position or entry.base_offset > offset:
            gap = Span(position, offset, entry.position)
            yield from _scan(log, gap, stream, entry.base_offset)
        yield located
        position, offset = entry.position + entry.octets, entry.end
    if position < span.size:
        yield from _scan(log, Span(position, offset, span.size), stream, None)


def _scan(
    log: int | None, span: Span, stream: Stream | None, next_offset: int | None
) -> Iterator[Located | Missing]:
    """Yield batches without an entry by their headers; at one without sense it gives up."""
    position, offset, size = span
    while log is not None and position < size:
        entry = _by_header(read_at(log, HEADER.size, position), position, offset, stream)
        if entry is None or position + entry.octets > size:
            break
        if next_offset is not None and entry.end > next_offset:
            break
        yield Located(entry)
        position, offset = position + entry.octets, entry.end
    if position < size or (next_offset is not None and offset < next_offset):
        yield Missing(offset, next_offset if next_offset is not None else offset, position)


def _by_header(head: bytes, position: int, offset: int, stream: Stream | None) -> Entry | None:
    if len(head) < HEADER.size:
        return None
    base, length, _, magic, _, _, last, first_ms, newest_ms, _, _, _, records = HEADER.unpack(head)
    octets = length + LENGTH_END
    # A segment of the spool has no gaps.
    if base != offset or magic != MAGIC or octets < HEADER.size or records != last + 1:
        return None
    if not 1 <= records <= MAX_RECORDS or octets > MAX_OCTETS:
        return None
    return Entry(base, records, position, octets, first_ms, newest_ms, None, stream, False, ())


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """Read octets, none where the disk cannot read them: trying again does not help."""
    try:
        return os.pread(descriptor, size, position)
    except OSError as err:
        if err.errno != errno.EIO:
            raise
        return b""


def is_torn(log: int, position: int) -> bool:
    """Say whether the batch at a position is cut short, so far as its header tells."""
    head = read_at(log, HEADER.size, position)
    if not head:
        return position >= os.fstat(log).st_size
    if len(head) < HEADER.size:
        return len(head) <= MAGIC_POSITION or head[MAGIC_POSITION] == MAGIC
    length, magic = HEADER.unpack(head)[1], head[MAGIC_POSITION]
    end = position + length + LENGTH_END
    return magic == MAGIC and length <= MAX_OCTETS and end > os.fstat(log).st_size

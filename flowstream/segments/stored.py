"""Segments of the spool that were written: their names, index, batches and deletion."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.errors import SinkError
from flowstream.messages import MessageBatch
from flowstream.segments import tallies
from flowstream.segments.batches import Batch
from flowstream.segments.index import Missing, Span, index, read_at
from flowstream.segments.spooled import Stock
from flowstream.segments.tallies import Located, unpack_tally
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.accounting.tally import Tally
    from flowstream.segments.directory import Directory

FILE_NAME: Final = re.compile(r"(?P<base>0[0-8][0-9]{18})\.(?P<kind>log|tally)")
_LARGEST_SIDECAR: Final = 256 << 20
# In ns, the last time of 64 bits.
_LATEST_MS: Final = (2**64 - 1) // 1_000_000
# The file is gone, or its octets cannot be read: trying again does not help.
_LOST: Final = (errno.EIO, errno.ENOENT, errno.ESTALE)

log = structlog.get_logger(__name__)


def log_name(base: int) -> str:
    """Name of a segment."""
    return f"{base:020}.log"


def tally_name(base: int) -> str:
    """Name of a segment's sidecar."""
    return f"{base:020}.tally"


def stream_of(topic: str) -> Stream | None:
    """Return the stream of a topic by its name, None for any other topic."""
    name = topic.rpartition(".")[2]
    return Stream(name) if name in set(Stream) else None


@dataclass(slots=True)
class Segment:
    """Offsets ``base`` to ``end``, exclusive; ``octets`` of log and sidecar.

    Times in ms are those of its records. ``given_up`` says that its records are not read
    any more; ``lossy`` that some were not published. ``stock`` is what waits, ``in_doubt``
    whether any of it was sent and not answered.
    """

    base: int
    end: int
    octets: int = 0
    oldest_ms: int | None = None
    newest_ms: int = 0
    given_up: bool = False
    lossy: bool = False
    stock: Stock = field(default_factory=Stock)
    in_doubt: bool = False
    damage_reported: bool = False

    def note(self, first_ms: int, newest_ms: int) -> None:
        """Note the times of a batch, which may be damaged."""
        first_ms = min(max(first_ms, 0), _LATEST_MS)
        if self.oldest_ms is None or first_ms < self.oldest_ms:
            self.oldest_ms = first_ms
        self.newest_ms = max(self.newest_ms, newest_ms)


@dataclass(slots=True)
class Reached:
    """How far a segment was read: positions in both files, and the offset there."""

    offset: int
    position: int = 0
    tally_at: int = 0

    def pass_over(self, item: Located | Missing) -> None:
        """Go on behind an item of the index."""
        if isinstance(item, Missing):
            self.offset = max(self.offset, item.end)
            return
        self.offset, self.position = item.entry.end, item.entry.position + item.entry.octets
        self.tally_at = max(self.tally_at, item.tally_at + item.tally_octets)


def items(
    directory: Directory, base: int, reached: Reached, stream: Stream | None
) -> Iterator[Located | Missing]:
    """Yield what is in a segment from there on; ``OSError`` where it cannot be read now."""
    with (
        _open(directory, tally_name(base)) as sidecar,
        _open(directory, log_name(base)) as batches,
    ):
        data = b""
        if sidecar is not None:
            rest = os.fstat(sidecar).st_size - reached.tally_at
            data = read_at(sidecar, min(max(rest, 0), _LARGEST_SIDECAR), reached.tally_at)
        size = 0 if batches is None else os.fstat(batches).st_size
        known = tallies.entries(data, reached.tally_at)
        yield from index(batches, Span(reached.position, reached.offset, size), known, stream)


def whole(
    directory: Directory, segment: Segment, reached: Reached, stream: Stream | None
) -> list[Located | Missing]:
    """Return everything from there to the end of a segment, also if its files are gone.

    ``reached`` is the end then. Raises ``OSError`` as ``items`` does.
    """
    found = list(items(directory, segment.base, reached, stream))
    for item in found:
        reached.pass_over(item)
    if reached.offset < segment.end:
        found.append(Missing(reached.offset, segment.end, reached.position))
        reached.offset = segment.end
    return found


@contextlib.contextmanager
def _open(directory: Directory, name: str) -> Iterator[int | None]:
    """Open a file to read; None where it is gone, or a link has taken its place."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(directory.opened(name))
        except (FileNotFoundError, SinkError):
            descriptor = None
        yield descriptor


def read_batch(
    directory: Directory, segment: Segment, located: Located, topic: str, partition: int
) -> MessageBatch:
    """Read a batch and its tally; ValueError where it is damaged or gone.

    Raises ``OSError`` where it cannot be read now, ``MissingExtraError`` without the
    library of its compression.
    """
    entry = located.entry
    try:
        data = _octets(directory, log_name(segment.base), entry.position, entry.octets)
    except SinkError as err:
        raise ValueError(str(err)) from err
    except OSError as err:
        if err.errno in _LOST:
            raise ValueError(err.strerror) from err
        raise
    if len(data) < entry.octets:
        raise ValueError("it is cut short")
    batch = Batch(data)
    if not batch.is_intact():
        raise ValueError("a wrong checksum")
    records = list(batch.records())
    if len(records) != entry.records:
        raise ValueError(f"{len(records)} records instead of {entry.records}")
    headers = [tuple(each.headers) for each in records]
    return MessageBatch(
        topic,
        partition,
        [each.timestamp for each in records],
        [each.key for each in records],
        [each.value for each in records],
        headers if any(headers) else (),
        stream=entry.stream,
        tally=_tally(directory, segment.base, located),
    )


def _octets(directory: Directory, name: str, position: int, size: int) -> bytes:
    with directory.opened(name) as descriptor:
        return os.pread(descriptor, size, position)


def _tally(directory: Directory, base: int, located: Located) -> Tally | None:
    """Return the tally of a batch, None where it has none or it is damaged."""
    if not located.tally_octets:
        return None
    try:
        packed = _octets(directory, tally_name(base), located.tally_at, located.tally_octets)
        return unpack_tally(packed, located.entry.records, located.tally_crc)
    except (OSError, SinkError, ValueError):
        return None


def report_damage(directory: Directory, segment: Segment, position: int, what: str) -> None:
    """Log the first damage of a segment: it may have thousands of batches."""
    if not segment.damage_reported:
        segment.damage_reported = True
        path = directory.path / log_name(segment.base)
        log.error("spool_damaged", file=str(path), position=position, error=what)


def sync(directory: Directory, base: int) -> None:
    """Make a segment and its sidecar durable; ``OSError`` where that is not certain."""
    for name in (log_name(base), tally_name(base)):
        with _open(directory, name) as descriptor:
            if descriptor is not None:
                os.fsync(descriptor)


def remove(directory: Directory, base: int) -> None:
    """Delete a segment, then its sidecar: the other way round could lose what it tells."""
    for name in (log_name(base), tally_name(base)):
        with contextlib.suppress(FileNotFoundError):
            directory.remove(name)

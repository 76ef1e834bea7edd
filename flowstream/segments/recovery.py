"""Finds the segments of a partition that an earlier run left, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowstream.errors import SinkError
from flowstream.segments import stored, tallies
from flowstream.segments.index import Missing, is_torn, read_at
from flowstream.segments.stored import FILE_NAME, Reached, Segment, log_name, tally_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.segments.directory import Directory
    from flowstream.segments.tallies import Located
    from flowstream.streams import Stream


class Found(NamedTuple):
    """A segment, what is in it, and where its last batch is cut short, if it is."""

    segment: Segment
    items: list[Located | Missing]
    torn_at: int | None


def recover(directory: Directory, stream: Stream | None) -> Iterator[Found]:
    """Yield the segments in order; delete sidecars and segments without any batch.

    Memory: the index of one segment. Raises ``OSError`` and ``SinkError`` where files cannot
    be read.
    """
    logs, sidecars = _bases(directory)
    for base in sorted(sidecars | logs.keys()):
        if not logs.get(base) and not _is_between(base, logs):
            stored.remove(directory, base)
            continue
        if base in logs:
            directory.require_access(log_name(base))
        if base in sidecars:
            _check_version(directory, tally_name(base))
        yield _find(directory, base, logs.get(base), stream)


def _check_version(directory: Directory, name: str) -> None:
    with directory.opened(name) as descriptor:
        version = tallies.foreign_version(read_at(descriptor, tallies.FIRST_ENTRY, 0))
    if version is not None:
        raise SinkError(
            f"{directory.path / name}: version {version} of the spool's format is unknown; "
            "use the release that wrote it, or another directory"
        )


def _bases(directory: Directory) -> tuple[dict[int, int], set[int]]:
    """Return the octets of the segments by their base, and the bases of the sidecars."""
    logs, sidecars = {}, set()
    for name in directory.names():
        if match := FILE_NAME.fullmatch(name):
            base = int(match["base"])
            if match["kind"] == "log":
                logs[base] = directory.size(name)
            else:
                sidecars.add(base)
    return logs, sidecars


def _is_between(base: int, logs: dict[int, int]) -> bool:
    """Say whether there are batches before and after: then it was no interrupted deletion."""
    full = [each for each, size in logs.items() if size]
    return bool(full) and min(full) < base < max(full)


def _find(directory: Directory, base: int, size: int | None, stream: Stream | None) -> Found:
    segment = Segment(base, base, octets=size or 0)
    reached = Reached(base)
    found = list(stored.items(directory, base, reached, stream))
    torn_at = None
    for item in found:
        reached.pass_over(item)
        if isinstance(item, Missing):
            if item.end == item.base_offset and _is_cut_short(directory, base, item.position):
                torn_at = item.position
            continue
        segment.note(item.entry.first_ms, item.entry.newest_ms)
        if size is not None and item.entry.position + item.entry.octets > size:
            torn_at = item.entry.position
    segment.end = reached.offset
    segment.octets += reached.tally_at
    return Found(segment, found, torn_at)


def _is_cut_short(directory: Directory, base: int, position: int) -> bool:
    """Say whether a batch without an entry ends with the file: torn, not damaged."""
    with directory.opened(log_name(base)) as descriptor:
        return is_torn(descriptor, position)

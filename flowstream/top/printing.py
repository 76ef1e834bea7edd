"""The plain table and the JSON document of one period."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream.top.grouping import GROUPS
from flowstream.top.model import Figures
from flowstream.top.texts import (
    lag_text,
    loss_text,
    other_terms,
    place_of,
    read_text,
    short,
)
from flowstream.wording import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.top.model import View


class Entry(msgspec.Struct, frozen=True):
    """One row: what it stands for, and its sums."""

    key: str
    l2_bytes: int
    packets: int
    records: int
    new_flows: int


class Document(msgspec.Struct, frozen=True):
    """What was read in one period of ``seconds``.

    ``time`` is RFC 3339. ``rows`` are the largest of ``row_count``; ``others`` are the sums of
    ``evicted`` rows that were too small to be kept, and ``total`` those of all rows. The amounts
    of ``interfaces`` are those of whole runs, not of the period.
    """

    time: str
    source: str
    seconds: float
    group: str
    records_read: int
    records_skipped: int
    lag_s: float | None
    total: Figures
    rows: list[Entry]
    row_count: int
    others: Figures
    evicted: int
    interfaces: list[Any]
    notes: list[str]


def document(view: View, source: str, group: str) -> bytes:
    """Return the JSON document, one line without its end."""
    entries = [
        Entry(GROUPS[group].text(row.key, {}), *msgspec.structs.astuple(row.sums.total))
        for row in view.rows
    ]
    # Without the rates of the last minute: another document has them.
    interfaces = [msgspec.structs.replace(each, rates=[]) for each in view.state.interfaces]
    return msgspec.json.encode(
        Document(
            time=datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
            source=source,
            seconds=view.state.seconds,
            group=group,
            records_read=view.state.read,
            records_skipped=view.state.skipped,
            lag_s=view.state.lag_s,
            total=view.all.total,
            rows=entries,
            row_count=view.row_count,
            others=view.others.total,
            evicted=view.evicted,
            interfaces=interfaces,
            notes=view.state.notes,
        )
    )


def plain(view: View, source: str, group: str) -> str:
    """Return the tables of interfaces and flows as text, nothing cut."""
    about = (counted(view.state.read, "record"), lag_text(view.state), read_text(view.state))
    lines = [f"{printable(source)}: {view.state.seconds:.1f} s, {', '.join(filter(None, about))}"]
    if view.state.interfaces:
        lines += ["", *_interfaces(view)]
    lines += ["", *_rows(view, group)]
    return "\n".join([*lines, *map(printable, view.state.notes)])


def _interfaces(view: View) -> list[str]:
    rows = [
        (
            *(place_of(each, with_host=True), each.direction),
            *(short(each.octets_per_s), short(each.packets_per_s)),
            *(f"{each.seen.packets:,}", f"{each.lost.packets:,}"),
        )
        for each in view.state.interfaces
    ]
    head = ("INTERFACE", "DIRECTION", "OCTETS/S", "PACKETS/S", "PACKETS SEEN", "LOST")
    loss = loss_text(view.state.interfaces) or "no losses"
    return [*_aligned([head, *rows], left=2), f"{loss}; {other_terms(view.state.interfaces)}"]


def _rows(view: View, group: str) -> list[str]:
    named = [(GROUPS[group].text(row.key, {}), row.sums.total) for row in view.rows]
    if view.row_count > len(view.rows):
        more = counted(view.row_count - len(view.rows), "more row")
        named.append((more, _rest(view)))
    if view.evicted:
        named.append((f"{view.evicted:,} others", view.others.total))
    named.append(("all", view.all.total))
    seconds = view.state.seconds
    rows = [
        (
            *(text, f"{sums.l2_bytes:,}", f"{sums.packets:,}", f"{sums.records:,}"),
            *(f"{sums.new_flows:,}", short(sums.l2_bytes / seconds if seconds > 0 else None)),
        )
        for text, sums in named
    ]
    head = (group.upper(), "OCTETS", "PACKETS", "RECORDS", "NEW FLOWS", "OCTETS/S")
    return _aligned([head, *rows], left=1)


def _rest(view: View) -> Figures:
    """Sums of the rows that are not shown, without those of the evicted ones."""
    shown = [view.others.total, *(row.sums.total for row in view.rows)]
    columns = zip(*map(msgspec.structs.astuple, shown), strict=True)
    sums = (
        every - sum(column)
        for every, column in zip(msgspec.structs.astuple(view.all.total), columns, strict=True)
    )
    return Figures(*sums)


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose first ``left`` columns are text, and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

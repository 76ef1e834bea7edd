"""The sections about traffic: over time, by address, by service, and the flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.report import figures
from flowstream.report.collecting import PROTOCOL_NUMBERS
from flowstream.report.sections import Section, Table
from flowstream.report.summing import NS_EDGES, OCTET_EDGES
from flowstream.report.wording import (
    count_text,
    duration_text,
    end_text,
    octets_text,
    protocol_text,
    scaled,
    service_text,
    share_text,
)
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.report.bins import Series
    from flowstream.report.summing import Summed, Top

DIRECTIONS: Final = ("ingress", "egress")
_PROTOCOLS_SHOWN: Final = 7
_ONCE: Final = (
    "Each packet counts once: of the hosts and directions that saw traffic from one address to "
    "another, that which saw most of it counts, over all its interfaces."
)


def over_time(series: Series, places: Sequence[str]) -> list[Section]:
    """One section for each direction that has traffic; ``places`` say where that is seen."""
    found = []
    for direction, name in enumerate(DIRECTIONS):
        octets = series.amounts[direction * PROTOCOL_NUMBERS : (direction + 1) * PROTOCOL_NUMBERS]
        if octets.sum():
            found.append(_by_protocol(series, octets, name, places[direction]))
    return found


def _by_protocol(series: Series, octets: NDArray[np.float64], name: str, place: str) -> Section:
    totals = octets.sum(axis=1)
    order = [int(n) for n in np.argsort(-totals, kind="stable") if totals[n]]
    named = {protocol_text(n): octets[n] for n in order[:_PROTOCOLS_SHOWN]}
    if rest := order[_PROTOCOLS_SHOWN:]:
        named[counted(len(rest), "other")] = octets[rest].sum(axis=0)
    per_second = 8e9 / series.width_ns
    rows = [
        (
            protocol,
            octets_text(amounts.sum()),
            share_text(amounts.sum(), totals.sum()),
            scaled(amounts.mean() * per_second, "bit/s"),
            scaled(amounts.max() * per_second, "bit/s"),
        )
        for protocol, amounts in named.items()
    ]
    bins = duration_text(series.width_ns)
    return Section(
        f"time-{name}",
        f"Traffic over time, {name}",
        [
            place,
            f"Octets of frames, in bins of {bins}. {_SPREAD}",
        ],
        [Table(f"{name.capitalize()} by protocol", _PROTOCOL_COLUMNS, rows)],
        figures.over_time(
            series,
            {key: (amounts * per_second).round(1).tolist() for key, amounts in named.items()},
            "bit/s",
            stacked=True,
        ),
        f"{name.capitalize()} traffic over time by protocol, in bits per second",
    )


_SPREAD: Final = "Those of a record are spread evenly from its first to its last packet."
_PROTOCOL_COLUMNS: Final = ("Protocol", "Octets", "Share", "Mean", "Peak of a bin")


_SERVICES: Final = (
    "The lower one of a flow's two ports, or the protocol where it has none. Ingress and egress "
    "are what interfaces received and sent: packets that a host forwards are in both."
)
_FLOWS: Final = (
    "A flow is what one interface saw in one direction with one set of addresses, ports, "
    "protocol, ICMP type and VLAN, from its first to its last packet, over all its records and "
    "runs: ports that are used again later are one flow."
)
_ANNOUNCED: Final = (
    "Announcements of flows that an agent did not know. A flow is announced by each interface "
    "and direction that sees it, and again once it was forgotten."
)


def rankings(summed: Summed) -> list[Section]:
    """The sections of addresses, conversations and services."""
    networks = "An address with a prefix length is a network: the agent aggregated its records."
    return [
        _ranked(
            ("talkers", "Top talkers", "Address"),
            [_ONCE, networks],
            summed.talkers,
            [end_text(key) for key in summed.talkers.rows["key"]],
            ("Sent", "Received", "Packets"),
        ),
        _ranked(
            ("conversations", "Top conversations", "A ↔ B"),
            [_ONCE, "A pair of addresses, whatever the protocol and the ports."],
            summed.conversations,
            [_pair_text(key) for key in summed.conversations.rows["key"]],
            ("A → B", "B → A", "Packets"),
        ),
        _ranked(
            ("services", "Services", "Service"),
            [_SERVICES],
            summed.services,
            [
                service_text(int(key) >> 16, int(key) & 0xFFFF)
                for (key,) in summed.services.rows["key"]
            ],
            ("Ingress", "Egress", "Flows"),
        ),
    ]


def _ranked(
    texts: tuple[str, str, str],
    notes: Sequence[str],
    top: Top,
    names: Sequence[str],
    columns: tuple[str, str, str],
) -> Section:
    """Section of rows with two amounts of octets and a count; ``texts``: id, title, subject."""
    name, title, subject = texts
    sums = [
        (f"{n}. {text}", row)
        for n, (text, row) in enumerate(zip(names, top.rows["sums"], strict=True), 1)
    ]
    if more := top.number - len(names):
        sums.append((counted(more, "other"), top.sums - top.rows["sums"].sum(axis=0)))
    whole = top.sums[:2].sum()
    rows = [
        (
            text,
            octets_text(row[0]),
            octets_text(row[1]),
            count_text(row[2]),
            share_text(row[:2].sum(), whole),
        )
        for text, row in sums
    ]
    parts = {columns[n]: top.rows["sums"][:, n].tolist() for n in (0, 1)}
    return Section(
        name,
        title,
        notes,
        [Table(f"{title} of {top.number:,}", (subject, *columns, "Share"), rows)],
        figures.ranked(names, parts, "B"),
        f"{title} by octets",
    )


def _pair_text(key: NDArray[np.uint64]) -> str:
    networks = int(key[4])
    etype, lengths = networks >> 16 << 16, (networks >> 8 & 0xFF, networks & 0xFF)
    ends = [
        end_text(np.array([key[at], key[at + 1], etype | length], np.uint64))
        for at, length in zip((0, 2), lengths, strict=True)
    ]
    return " ↔ ".join(ends)


def of_flows(summed: Summed, merged: int) -> list[Section]:
    """The sections of sizes and durations of flows."""
    notes = [_FLOWS]
    if merged:
        notes.append(
            f"{counted(merged, 'flow')} that the agent aggregated (--max-records) left out."
        )
    sizes = [f"below {octets_text(OCTET_EDGES[0])}", *map(octets_text, OCTET_EDGES)]
    durations = ["0 s", "below 1 ms", *map(duration_text, NS_EDGES[1:])]
    return [
        _histogram(
            "sizes", "Sizes of flows", "Octets of frames, from", notes, sizes, summed.sizes
        ),
        _histogram(
            "durations", "Durations of flows", "Duration, from", notes, durations, summed.durations
        ),
    ]


def _histogram(
    name: str,
    title: str,
    axis: str,
    notes: Sequence[str],
    bins: Sequence[str],
    counts: NDArray[np.intp],
) -> Section:
    used = np.flatnonzero(counts.sum(axis=0))
    part = slice(used[0], used[-1] + 1) if len(used) else slice(0)
    names = bins[part]
    parts = {
        direction: counts[n, part].tolist()
        for n, direction in enumerate(DIRECTIONS)
        if counts[n].any()
    }
    rows = [
        (bin_name, *(f"{values[n]:,}" for values in parts.values()))
        for n, bin_name in enumerate(names)
    ]
    return Section(
        name,
        title,
        notes,
        [Table(title, (axis, *parts), rows)],
        figures.histogram(names, parts, axis) if parts else None,
        f"{title}: numbers of flows on logarithmic axes",
    )


def announced(series: Series) -> Section:
    """The section of new flows over time."""
    title = "New flows over time"
    totals = {
        name: series.amounts[n] for n, name in enumerate(DIRECTIONS) if series.amounts[n].any()
    }
    notes = [_ANNOUNCED]
    if not totals:
        return Section("new-flows", title, [*notes, "There is none."], [])
    seconds = series.width_ns / 1e9
    rows = [
        (
            name,
            count_text(counts.sum()),
            f"{scaled(counts.mean() / seconds, '/s')}",
            f"{scaled(counts.max() / seconds, '/s')}",
        )
        for name, counts in totals.items()
    ]
    rates = {name: (counts / seconds).round(3).tolist() for name, counts in totals.items()}
    return Section(
        "new-flows",
        title,
        notes,
        [Table("Announcements", ("Direction", "Flows", "Mean", "Peak of a bin"), rows)],
        figures.over_time(series, rates, "/s", stacked=False),
        "New flows per second over time, by direction",
    )

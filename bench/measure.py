"""Interleaved samples, and the table that shows them."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROUNDS: Final = 15


@dataclass(frozen=True, slots=True)
class Samples:
    """The durations or costs of one case."""

    values: tuple[float, ...]

    @property
    def fastest(self) -> float:
        """The smallest sample, which was disturbed least."""
        return min(self.values)

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Row:
    """One case. Ratios are over ``base``; with ``over`` the difference to it counts.

    ``target`` is the most that the value (or that difference) may be, in the
    table's unit.
    """

    name: str
    samples: Samples
    base: Samples | None = None
    target: float | None = None
    over: bool = False
    unit: str | None = None


@dataclass(slots=True)
class Table:
    """Rows under one title; ``base`` names the base of the ratios in the heading."""

    title: str
    unit: str
    base: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def interleave(
    cases: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, Samples]:
    """Take ``rounds`` samples of each case, one of each per round, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, sample in cases.items():
            value = sample()
            if number:
                taken[name].append(value)
    return {name: Samples(tuple(values)) for name, values in taken.items()}


def cpu_us(work: Callable[[], int]) -> float:
    """CPU time of all threads of this process, µs per record; ``work`` returns their number."""
    before = time.process_time_ns()
    count = work()
    return (time.process_time_ns() - before) / 1000 / count


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads, from proc(5): utime and stime."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def show(table: Table) -> list[str]:
    """Print the table; return the names of the rows whose target the fastest sample misses."""
    heading = ["", f"{table.unit}, fastest", "median", "over", "median", "ratio", "median", ""]
    lines = [_cells(row, table.unit) for row in table.rows]
    widths = [max(map(len, column)) for column in zip(heading, *lines, strict=True)]
    print(f"\n{table.title} ('over' and ratio: {table.base})")
    for line in (heading, ["-" * width for width in widths], *lines):
        first, *numbers, verdict = line
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=False))
        print("  ".join((first.ljust(widths[0]), *cells, verdict)).rstrip())
    for note in table.notes:
        print(f"  {note}")
    return [f"{table.title}: {row.name}" for row in table.rows if not all(list(_met(row))[:1])]


def _cells(row: Row, unit: str) -> list[str]:
    own, base = row.samples, row.base
    cells = [row.name, _number(own.fastest), _number(own.median)]
    if base is None:
        cells += ["", "", "", ""]
    else:
        cells += [_number(own.fastest - base.fastest), _number(own.median - base.median)]
        cells += [f"{own.fastest / base.fastest:.2f}", f"{own.median / base.median:.2f}"]
    verdict = ""
    if row.unit and row.unit != unit:
        verdict = row.unit
    if row.target is not None:
        fastest, median = ("met" if met else "MISSED" for met in _met(row))
        what = "over" if row.over else "target"
        verdict = f"{verdict} {what} <= {row.target:.3g}: {fastest}, median {median}".strip()
    return [*cells, verdict]


def _met(row: Row) -> Iterator[bool]:
    """Whether the fastest sample and the median keep to the target."""
    if row.target is None:
        return
    for which in ("fastest", "median"):
        value: float = getattr(row.samples, which)
        if row.over and row.base is not None:
            value -= getattr(row.base, which)
        yield value <= row.target


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

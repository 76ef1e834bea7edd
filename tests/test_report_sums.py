"""Sums of a report: exact by key, whatever the memory holds, and whole over time."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.errors import SinkError
from flowstream.report.bins import MOST_BINS, TimeBins
from flowstream.report.keyed import PARTS, KeyedSums, row_type
from flowstream.report.wording import duration_text, scaled, time_text

KIND = row_type(keys=2, sums=2)
S = 10**9


def rows_of(values: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Rows of two keys, an amount and a time."""
    rows = np.zeros(len(values), KIND)
    for row, (first, second, amount, time) in zip(rows, values, strict=True):
        row["key"], row["sums"] = (first, second), (amount, 1)
        row["start"], row["end"] = time, time + amount
    return rows


def expected(values: list[tuple[int, int, int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
    found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for first, second, amount, time in values:
        found[first, second].append((amount, time))
    return {
        key: (
            sum(amount for amount, _ in each),
            len(each),
            min(time for _, time in each),
            max(amount + time for amount, time in each),
        )
        for key, each in found.items()
    }


def summed(sums: KeyedSums) -> list[dict[tuple[int, int], tuple[int, ...]]]:
    return [
        {
            (int(row["key"][0]), int(row["key"][1])): (
                *(int(each) for each in row["sums"]),
                int(row["start"]),
                int(row["end"]),
            )
            for row in part
        }
        for part in sums.parts()
    ]


VALUES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 999), st.integers(0, 999)),
    max_size=200,
)


@given(VALUES, st.integers(1, 300), st.integers(1, 40))
def test_sums_are_exact_in_memory_and_in_the_file(values, rows, at_once):
    with KeyedSums(KIND, together=1, rows=rows) as sums:
        for start in range(0, len(values), at_once):
            sums.add(rows_of(values[start : start + at_once]))
        parts = summed(sums)
    whole = {key: row for part in parts for key, row in part.items()}
    assert whole == expected(values)
    assert sum(map(len, parts)) == len(whole)
    assert len(parts) in (1, PARTS)
    # Keys that begin alike are in one part.
    places = defaultdict(set)
    for number, part in enumerate(parts):
        for first, _ in part:
            places[first].add(number)
    assert all(len(each) == 1 for each in places.values())


def test_a_temporary_file_that_cannot_be_made_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/none")
    says = r"^temporary file in /none: No such .*; set TMPDIR to a directory with more space$"
    with KeyedSums(KIND, together=1, rows=2) as sums, pytest.raises(SinkError, match=says):
        sums.add(rows_of([(1, 1, 1, 1), (2, 2, 2, 2)]))


TIMES = st.integers(0, 2**63 - 1)
NEAR = st.integers(1_700_000_000 * S, 1_700_000_900 * S)
AMOUNTS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1), st.integers(0, 10**9), NEAR, st.integers(0, 5 * S)),
        st.tuples(st.integers(0, 1), st.integers(0, 10**9), TIMES, st.just(0)),
    ),
    min_size=1,
    max_size=50,
)


@given(AMOUNTS, st.integers(1, 20))
def test_nothing_is_lost_over_time_whatever_the_range(amounts, at_once):
    bins = TimeBins(2)
    for start in range(0, len(amounts), at_once):
        group, amount, begin, lasts = zip(*amounts[start : start + at_once], strict=True)
        start_ns = np.array(begin, np.uint64)
        bins.add(
            np.array(group),
            np.array(amount, float),
            start_ns,
            start_ns + np.array(lasts, np.uint64),
        )
    series = bins.series()
    assert series.amounts.shape[1] <= MOST_BINS
    assert series.start_ns % series.width_ns == 0
    assert series.start_ns <= min(each[2] for each in amounts) < series.start_ns + series.width_ns
    for group in (0, 1):
        whole = sum(each[1] for each in amounts if each[0] == group)
        assert series.amounts[group].sum() == pytest.approx(whole, rel=1e-9, abs=1e-3)


@given(st.integers(0, 10 * S), st.integers(0, 700 * S), st.integers(1, 10**12))
def test_each_bin_has_its_share_of_a_record(start, lasts, amount):
    bins = TimeBins(1)
    begin = np.array([start], np.uint64)
    bins.add(np.array([0]), np.array([float(amount)]), begin, begin + np.uint64(lasts))
    series = bins.series()
    for number, octets in enumerate(series.amounts[0].tolist()):
        low = series.start_ns + number * series.width_ns
        inside = max(min(start + lasts, low + series.width_ns) - max(start, low), 0)
        share = Fraction(amount * inside, lasts) if lasts else amount
        assert octets == pytest.approx(float(share), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        (scaled(0, "B"), "0 B"),
        (scaled(999, "B"), "999 B"),
        (scaled(999.6, "B"), "1 kB"),
        (scaled(1_234_567, "bit/s"), "1.23 Mbit/s"),
        (scaled(0.25, "/s"), "0.25 /s"),
        (duration_text(1_500), "1.5 µs"),
        (duration_text(90 * S), "1.5 min"),
        (time_text(2**63 - 1), "2262-04-11 23:47:16 UTC"),
    ],
)
def test_numbers_and_times_as_people_read_them(text, is_):
    assert text == is_

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.audit.seqs import SeqSet

scattered = st.lists(st.integers(0, 70_000) | st.integers(0, 2**64 - 1), max_size=50)
# Enough in a chunk for a bitmap, at once or together.
dense = st.builds(
    lambda first, count, step: list(range(first, first + count * step, step)),
    st.integers(0, 70_000),
    st.integers(0, 400),
    st.integers(1, 3),
)


@given(st.lists(scattered | dense))
def test_a_seq_set_is_a_set(batches):
    seqs, seen, count = SeqSet(), set(), 0
    for batch in batches:
        fresh = seqs.add(np.array(batch, np.uint64))
        assert {n for n, new in zip(batch, fresh, strict=True) if new} == set(batch) - seen
        assert np.count_nonzero(fresh) == len(set(batch) - seen)
        seen |= set(batch)
        count += len(batch)
    assert (seqs.count, seqs.duplicates) == (len(seen), count - len(seen))
    assert (seqs.lowest, seqs.highest) == (min(seen, default=None), max(seen, default=None))
    for end in (0, 1, 40_000, 2**64):
        below = sorted(n for n in seen if n < end)
        edges = zip([-1, *below], [*below, end], strict=True)
        gaps = [(a + 1, b - 1) for a, b in edges if b - a > 1]
        assert list(seqs.gaps(end)) == gaps
        assert seqs.missing(end) == end - len(below)


@pytest.mark.parametrize("spread", [1, 6, 100, 128, 200, 2**40])
def test_a_seq_set_is_small_however_numbers_are_scattered(spread):
    count, batch = 30_000, 97
    numbers = random.Random(spread).sample(range(count * spread), count)
    seqs = SeqSet()
    tracemalloc.start()
    for start in range(0, count, batch):
        seqs.add(np.array(numbers[start : start + batch], np.uint64))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 18 * count
    assert (seqs.count, seqs.duplicates) == (count, 0)
    end = max(numbers) + 1
    assert seqs.missing(end) == end - count

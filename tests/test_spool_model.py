"""The spool against a model, by random steps: each batch leaves it once, and is counted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.outcomes import TIMESTAMP_MS
from support.spools import TOPIC, amounts, append, flows, numbers, opened

from flowstream.accounting import terms
from flowstream.segments.retention import Retention

if TYPE_CHECKING:
    from flowstream.segments.spooled import SpooledBatch

HOUR = 3_600_000


class SpoolMachine(RuleBasedStateMachine):
    """Each batch has an epoch of its own, which tells it apart also when it is gone.

    ``waiting`` are the batches that wait, ``unread`` those of them that are not in flight.
    ``left`` were published or are gone; ``final`` were so at the last checkpoint: a crash
    brings the others back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="flowstream-spool-", dir="/dev/shm"))
        self.sent: dict[int, range] = {}
        self.waiting: set[int] = set()
        self.unread: set[int] = set()
        self.left: set[int] = set()
        self.final: set[int] = set()
        self.in_flight: list[SpooledBatch] = []
        self.torn: set[Path] = set()

    @initialize(
        segment_bytes=st.sampled_from([1, 3_000, 20_000]),
        size=st.sampled_from([None, 10_000, 40_000]),
        age_ms=st.sampled_from([None, HOUR]),
        compression=st.sampled_from(["none", "snappy"]),
    )
    def begin(self, segment_bytes, size, age_ms, compression):
        self.size = size
        self.options = {
            "segment_bytes": segment_bytes,
            "retention": Retention(size=size, age_ms=age_ms),
            "compression": compression,
        }
        self.spool = opened(self.directory, **self.options)

    @rule(count=st.integers(1, 40), partition=st.integers(0, 2), hours=st.integers(0, 2))
    def append(self, count, partition, hours):
        first = sum(map(len, self.sent.values()))
        epoch = len(self.sent) + 1
        time_ms = TIMESTAMP_MS + hours * HOUR
        append(self.spool, flows(first, count, partition, size=60, time_ms=time_ms), epoch)
        self.sent[epoch] = range(first, first + count)
        self.waiting.add(epoch)
        self.unread.add(epoch)

    @rule(times=st.integers(1, 5))
    def read(self, times):
        for _ in range(times):
            spooled = self.spool.read()
            if spooled is None:
                assert self.unread == set()
                return
            self.compare(spooled)
            self.unread.remove(spooled.agent_epoch)
            self.in_flight.append(spooled)

    def compare(self, spooled: SpooledBatch) -> None:
        expected = self.sent[spooled.agent_epoch]
        assert numbers([spooled]) == list(expected)
        assert spooled.amounts == amounts(expected)
        assert dict(spooled.batch.tally.sums()) == amounts(expected)

    @precondition(lambda self: self.in_flight)
    @rule(place=st.integers(0, 99))
    def acknowledge(self, place):
        spooled = self.in_flight.pop(place % len(self.in_flight))
        self.spool.acknowledge(spooled)
        self.waiting.remove(spooled.agent_epoch)
        self.left.add(spooled.agent_epoch)

    @rule(hours=st.integers(0, 3))
    def tidy(self, hours):
        self.spool.tidy(TIMESTAMP_MS + hours * HOUR)
        before = set(self.unread)
        self.count_gone({terms.SPOOL_FULL, terms.SPOOL_EXPIRED})
        assert self.left & before == before - self.unread

    @rule()
    def save(self):
        self.spool.save()
        self.final = set(self.left)
        self.torn.clear()

    @rule(hours=st.integers(0, 3))
    def make_room(self, hours):
        self.tidy(hours)
        self.save()
        # What is published is deleted once everything before it has its outcome.
        assert not self.spool.exceeded or self.in_flight

    @rule()
    def sync(self):
        self.spool.sync()

    @rule(torn=st.sampled_from([None, 0, 1, 2]), octets=st.integers(1, 30))
    def crash(self, torn, octets):
        """End without a checkpoint, perhaps in the middle of a batch; begin again."""
        self.spool.close()
        if torn is not None:
            self.tear(torn, octets)
        self.begin_again()
        self.read_everything()
        # Another run finds the same.
        self.spool.close()
        self.begin_again()

    def begin_again(self) -> None:
        self.spool = opened(self.directory, **self.options)
        self.waiting = set(self.sent) - self.final
        self.left = set(self.final)
        self.unread = set(self.waiting)
        self.in_flight = []
        assert self.count_gone({terms.SPOOL_DAMAGED}) <= len(self.torn)

    def tear(self, partition: int, octets: int) -> None:
        logs = sorted((self.directory / f"{TOPIC}-{partition}").glob("*.log"))
        # Twice could take a whole batch away, which no process does.
        if logs and logs[-1] not in self.torn and logs[-1].stat().st_size > octets:
            self.torn.add(logs[-1])
            os.truncate(logs[-1], logs[-1].stat().st_size - octets)

    def read_everything(self) -> None:
        found = []
        while (spooled := self.spool.read()) is not None:
            self.compare(spooled)
            found.append(spooled.agent_epoch)
        assert sorted(found) == sorted(self.waiting)

    def count_gone(self, causes: set[str]) -> int:
        """Take what is gone out of the model; return how many batches."""
        gone = self.spool.gone()
        for each in gone:
            assert each.cause in causes
            assert (each.records, each.amounts) == (
                len(self.sent[each.agent_epoch]),
                amounts(self.sent[each.agent_epoch]),
            )
            self.unread.remove(each.agent_epoch)
            self.waiting.remove(each.agent_epoch)
            self.left.add(each.agent_epoch)
        return len(gone)

    @invariant()
    def counts_agree(self):
        if self.sent:
            waiting = [n for epoch in self.waiting for n in self.sent[epoch]]
            assert self.spool.records == len(waiting)
            octets = sum(each.l2_bytes for each in self.spool.amounts.values())
            assert octets == sum((n % 7 + 1) * 61 for n in waiting)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
        shutil.rmtree(self.directory)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

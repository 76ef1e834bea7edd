"""The budget of records: nothing changes within it; beyond it sums stay exact."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.records import random_flows

from flowstream.accounting import terms
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.pipeline import limit
from flowstream.pipeline.limit import RecordLimit
from flowstream.pipeline.publisher import RecordBatch
from flowstream.streams import Stream

pytestmark = pytest.mark.anyio

IF_INDEX = 3


class Taken:
    """A publisher that keeps what it is given."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.batches: list[RecordBatch] = []

    async def put(self, batch: RecordBatch) -> None:
        self._ledger.drained(batch.stream, limit.Tally.of_flows(batch.records))
        await self.put_drained(batch)

    async def put_drained(self, batch: RecordBatch) -> None:
        await asyncio.sleep(0)
        self.batches.append(batch)

    def records(self, stream: Stream = Stream.FLOWS):
        taken = [batch.records for batch in self.batches if batch.stream is stream]
        return np.concatenate(taken, dtype=FLOW_RECORD) if taken else np.empty(0, FLOW_RECORD)


class Rig:
    """A limit between the test and a publisher that keeps everything."""

    def __init__(self, most: int, reserve: int) -> None:
        self.ledger = Ledger()
        self.taken = Taken(self.ledger)
        self.limit = RecordLimit(self.taken, self.ledger, most=most, reserve=reserve)
        self.sent: list[np.ndarray] = []

    async def send(self, n: int, stream: Stream = Stream.FLOWS) -> None:
        records = flows(n, seed=len(self.sent))
        if stream is Stream.FLOWS:
            self.sent.append(records.copy())
        else:
            records["packets"] = records["bytes"] = records["l2_bytes"] = 0
        await self.limit.put(RecordBatch(stream, records))

    @property
    def account(self):
        return self.ledger.account(AttachmentKey(IF_INDEX))

    def check(self) -> None:
        """Sums are exact, and every record that was drained is published or merged."""
        sent, taken = np.concatenate(self.sent, dtype=FLOW_RECORD), self.taken.records()
        for name in ("packets", "bytes", "l2_bytes", "flow_count"):
            assert int(taken[name].sum()) == int(sent[name].sum()), name
        stage = self.account.flows
        assert stage.drained == len(sent)
        assert stage.drained == len(taken) + stage.aggregated


def flows(n: int, seed: int):
    records = np.array(random_flows(n, seed), FLOW_RECORD)
    records["src_net"] = records["dst_net"] = 32
    records["flow_count"] = records["sampling_rate"] = 1
    return records


async def test_records_within_the_budget_are_not_touched():
    rig = Rig(most=5_003, reserve=1_009)
    for n in (1_997, 1_997, 5):
        await rig.send(n)
    # Records outside the reserve go on at once.
    assert len(rig.taken.records()) == 3_994
    await rig.send(1_004)
    await rig.limit.begin_interval()
    sent = np.concatenate(rig.sent, dtype=FLOW_RECORD)
    assert len(sent) == 5_003
    assert rig.taken.records().tobytes() == sent.tobytes()
    assert rig.account.flows.aggregated == 0
    rig.check()


@pytest.mark.parametrize("chunk", [1, 1_009, 65_536])
async def test_an_interval_has_no_more_records_than_its_budget(monkeypatch, chunk):
    monkeypatch.setattr(limit, "CHUNK_RECORDS", chunk)
    rig = Rig(most=5_003, reserve=1_009)
    for interval in range(1, 4):
        for _ in range(11):
            await rig.send(1_999)
        await rig.limit.begin_interval()
        assert len(rig.taken.records()) == interval * 5_003
    assert rig.account.flows.aggregated == 3 * (11 * 1_999 - 5_003)
    rig.check()


async def test_the_largest_of_the_held_records_stay_whole():
    rig = Rig(most=1_009, reserve=1_009)
    for _ in range(7):
        await rig.send(1_999)
    await rig.limit.begin_interval()
    sent = np.concatenate(rig.sent, dtype=FLOW_RECORD)
    sizes = sent["l2_bytes"].astype(np.uint64)
    largest = sent[sizes > np.sort(sizes)[-504]]
    whole = {record.tobytes() for record in rig.taken.records()}
    assert {record.tobytes() for record in largest} <= whole
    rig.check()


async def test_what_is_flushed_counts_for_the_interval():
    rig = Rig(most=1_009, reserve=1_009)
    await rig.send(503)
    await rig.limit.flush()
    assert len(rig.taken.records()) == 503
    await rig.send(1_999)
    await rig.limit.begin_interval()
    assert len(rig.taken.records()) == 1_009
    rig.check()


async def test_records_may_come_from_several_tasks_while_held_ones_are_merged(monkeypatch):
    monkeypatch.setattr(limit, "CHUNK_RECORDS", 503)
    rig = Rig(most=1_009, reserve=503)

    async def send() -> None:
        for _ in range(11):
            await rig.send(307)

    await asyncio.gather(send(), send(), rig.limit.begin_interval(), send())
    await rig.limit.begin_interval()
    rig.check()


async def test_announcements_have_a_budget_of_their_own():
    rig = Rig(most=1_009, reserve=503)
    for n in (503, 503, 503):
        await rig.send(n, Stream.NEW_FLOWS)
    assert len(rig.taken.records(Stream.NEW_FLOWS)) == 1_009
    assert rig.account.losses == {"announcement_limited": RecordAmount(500, 0, 0)}
    assert rig.account.new_flows.drained == 1_509
    # Flow records have theirs untouched, and the next interval begins anew.
    await rig.send(1_009)
    await rig.limit.begin_interval()
    assert rig.account.flows.aggregated == 0
    await rig.send(1_009, Stream.NEW_FLOWS)
    assert len(rig.taken.records(Stream.NEW_FLOWS)) == 2 * 1_009
    rig.check()


async def test_held_records_that_cannot_be_merged_are_counted(monkeypatch):
    def failing(*_: object) -> None:
        raise ValueError("a bug")

    rig = Rig(most=503, reserve=503)
    await rig.send(1_009)
    monkeypatch.setattr(limit, "aggregate", failing)
    with pytest.raises(ValueError, match="a bug"):
        await rig.limit.begin_interval()
    (sent,) = rig.sent
    assert rig.account.losses == {
        terms.INTERNAL_ERROR: RecordAmount(
            1_009, int(sent["packets"].sum()), int(sent["l2_bytes"].sum())
        )
    }
    await rig.limit.begin_interval()
    assert len(rig.taken.records()) == 0

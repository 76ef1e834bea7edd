"""Books of spooled records: the ledger's of this run, amended records' of an earlier one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.published import HOST, LOSSES, NO_SPOOL, Published
from support.records import EPOCH, flow_records

from flowstream.accounting import terms
from flowstream.accounting.account import Account, StageCount
from flowstream.accounting.amended import amended
from flowstream.accounting.amounts import Amount, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.outcomes import Gone
from flowstream.accounting.snapshot import Moment, SpoolState
from flowstream.accounting.tally import Tally
from flowstream.messages import MessageBatch
from flowstream.records import CountersRecord, Loss, SpoolCounts, StageCounts, decode
from flowstream.streams import Stream

THREE_IN, THREE_OUT, FIVE_IN = AttachmentKey(3), AttachmentKey(3, 1), AttachmentKey(5)
# if_index, flow_direction, packets, frame octets
RECORDS = [(3, 0, 7, 701), (5, 0, 11, 1_103), (3, 1, 13, 1_301), (3, 0, 17, 1_709)]
ALL = slice(0, len(RECORDS))
NOW, STATE = Moment(EPOCH + 86_400 * 10**9, 31), SpoolState(4_099, EPOCH + 5)


def batch(stream: Stream = Stream.FLOWS) -> MessageBatch:
    index, direction, packets, octets = np.array(RECORDS, np.uint64).T
    tally = Tally.of_flows(
        flow_records(
            len(RECORDS),
            if_index=index,
            flow_direction=direction,
            packets=packets,
            l2_bytes=octets,
        )
    )
    n = len(RECORDS)
    return MessageBatch("t", 0, [0] * n, [b""] * n, [b""] * n, stream=stream, tally=tally)


def spooled(stream: Stream = Stream.FLOWS) -> Ledger:
    """Ledger of four records that all wait in the spool."""
    ledger = Ledger()
    everything = batch(stream)
    assert everything.tally is not None
    ledger.drained(stream, everything.tally)
    ledger.encoded(stream, everything.tally)
    ledger.queued(everything)
    ledger.spooled(everything, ALL)
    return ledger


def amounts(part: slice) -> dict[AttachmentKey, RecordAmount]:
    tally = batch().tally
    assert tally is not None
    return dict(tally[part].sums())


def gone_of(stream: Stream, part: slice, cause: str, *, in_doubt: bool = False) -> Gone:
    tally = batch(stream).tally
    assert tally is not None
    return Gone(EPOCH, stream, dict(tally[part].sums()), cause, in_doubt)


def of_everything(ledger: Ledger) -> list[tuple[AttachmentKey, Account]]:
    return [(key, ledger.account(key)) for key in (THREE_IN, THREE_OUT, FIVE_IN)]


@pytest.mark.parametrize("stream", [Stream.FLOWS, Stream.NEW_FLOWS])
def test_records_that_wait_are_settled(stream):
    ledger = spooled(stream)
    assert ledger.account(THREE_IN).spool == RecordAmount(2, 24, 2_410)
    assert ledger.account(THREE_OUT).spool == RecordAmount(1, 13, 1_301)
    for _, account in of_everything(ledger):
        n = account.spool.records
        assert account.stage(stream) == StageCount(drained=n, encoded=n, queued=n, spooled=n)
        assert account.settled
        assert (account.losses, account.in_doubt) == ({}, {})


def test_a_spooled_record_that_is_acknowledged_is_published():
    ledger = spooled()
    ledger.unspooled(Stream.FLOWS, amounts(slice(0, 3)))
    account = ledger.account(THREE_IN)
    assert account.spool == RecordAmount(1, 17, 1_709)
    # Spooled stays: it counts what was ever written there.
    assert (account.flows.acknowledged, account.flows.spooled) == (1, 2)
    assert all(account.settled for _, account in of_everything(ledger))
    assert account.acknowledged == account.left.acknowledged == Amount(7, 701)
    ledger.unspooled(Stream.FLOWS, amounts(slice(3, 4)))
    assert account.settled
    assert account.acknowledged == account.left.acknowledged == Amount(24, 2_410)
    assert [account.spool for _, account in of_everything(ledger)] == [RecordAmount()] * 3


def test_a_spooled_record_that_the_broker_refuses_is_lost_by_that_cause():
    ledger = spooled()
    ledger.gone(gone_of(Stream.FLOWS, slice(0, 1), terms.MESSAGE_TOO_LARGE))
    account = ledger.account(THREE_IN)
    assert account.losses == {"message_too_large": RecordAmount(1, 7, 701)}
    assert (account.flows.failed, account.spool) == (1, RecordAmount(1, 17, 1_709))
    assert account.settled


@pytest.mark.parametrize("stream", [Stream.FLOWS, Stream.NEW_FLOWS])
def test_records_that_are_gone_are_lost_or_in_doubt(stream):
    ledger = spooled(stream)
    ledger.gone(gone_of(stream, slice(0, 2), terms.SPOOL_FULL))
    ledger.gone(gone_of(stream, slice(3, 4), terms.SPOOL_EXPIRED, in_doubt=True))
    account = ledger.account(THREE_IN)
    assert account.losses == {"spool_full": RecordAmount(1, 7, 701)}
    assert account.in_doubt == {"spool_expired": RecordAmount(1, 17, 1_709)}
    assert (account.stage(stream).failed, account.spool) == (1, RecordAmount())
    assert ledger.account(FIVE_IN).losses == {"spool_full": RecordAmount(1, 11, 1_103)}
    assert ledger.account(THREE_OUT).spool == RecordAmount(1, 13, 1_301)
    assert all(account.settled for _, account in of_everything(ledger))


def test_spooled_counters_have_no_account():
    ledger = Ledger()
    counters = MessageBatch(
        "t", 0, [0], [b""], [b""], stream=Stream.COUNTERS, tally=Tally.empty(1)
    )
    ledger.spooled(counters, slice(0, 1))
    ledger.gone(Gone(EPOCH, Stream.COUNTERS, {AttachmentKey(0): RecordAmount(1)}, "spool_full"))
    assert ledger.account(AttachmentKey(0)) == Account()
    assert (ledger.counters_published, ledger.counters_failed) == (1, 0)


def last_record(*, final: bool = True) -> CountersRecord:
    """Last record of a run whose 31 flow records wait, except for the first 20."""
    published = Published()
    waiting = published.flows[20:]
    record = published.counters[1]
    return msgspec.structs.replace(
        record,
        stages={
            "flows": StageCounts(42, 31, 31, 20, 11, 0, 0),
            "new_flows": StageCounts(13, 13, 13, 13, 0, 0, 0),
        },
        spool=SpoolCounts(
            11, int(waiting["packets"].sum()), int(waiting["l2_bytes"].sum()), 8_209, EPOCH
        ),
        final=final,
    )


def amount_of(first: int, end: int) -> RecordAmount:
    flows = Published().flows[first:end]
    return RecordAmount(len(flows), int(flows["packets"].sum()), int(flows["l2_bytes"].sum()))


def difference(record: CountersRecord, published: RecordAmount) -> tuple[int, int]:
    """What the loss equation of ``record`` leaves, in packets and octets."""
    others = [*record.no_flow.values(), *record.losses.values()]
    return (
        record.seen_packets - published.packets - sum(each.packets for each in others),
        record.seen_l2_bytes - published.l2_bytes - sum(each.l2_bytes for each in others),
    )


def unsettled(record: CountersRecord) -> int:
    stages = record.stages.values()
    return (
        sum(each.encoded - each.acknowledged - each.failed for each in stages)
        - sum(each.records for each in record.in_doubt.values())
        - record.spool.records
    )


def test_an_amended_record_keeps_the_equation_of_its_run():
    last = last_record()
    lost = {THREE_IN: amount_of(20, 24), FIVE_IN: RecordAmount(2, 3, 5)}
    doubtful = {THREE_IN: amount_of(24, 25)}
    found = amended(
        last,
        [
            Gone(EPOCH, Stream.FLOWS, lost, terms.SPOOL_FULL),
            Gone(EPOCH, Stream.FLOWS, doubtful, terms.SPOOL_FULL, in_doubt=True),
        ],
        seq=9,
        time=NOW,
        spool=STATE,
    )
    waiting = amount_of(25, 31)
    assert found == msgspec.structs.replace(
        last,
        seq=9,
        time_unix_ns=NOW.unix_ns,
        time_boot_ns=NOW.boot_ns,
        losses=LOSSES | {"spool_full": Loss(*lost[THREE_IN])},
        in_doubt=last.in_doubt | {"spool_full": Loss(*doubtful[THREE_IN])},
        stages=last.stages | {"flows": StageCounts(42, 31, 31, 20, 11, 4, 0)},
        spool=SpoolCounts(*waiting, *STATE),
    )
    assert decode(msgspec.msgpack.encode(found)) == found
    # The first 20 were published by the run itself, the last 6 by the later one.
    published = amount_of(0, 20).plus(waiting)
    assert difference(found, published) == doubtful[THREE_IN][1:]
    assert difference(found, published.plus(doubtful[THREE_IN])) == (0, 0)
    assert unsettled(found) == 0


def test_what_is_gone_of_other_runs_and_of_counters_changes_nothing():
    last = last_record()
    gone = [
        Gone(EPOCH + 1_024, Stream.FLOWS, {THREE_IN: amount_of(20, 24)}, terms.SPOOL_FULL),
        Gone(EPOCH, Stream.FLOWS, {THREE_OUT: amount_of(20, 24)}, terms.SPOOL_FULL),
        Gone(EPOCH, Stream.COUNTERS, {THREE_IN: RecordAmount(1)}, terms.SPOOL_FULL),
    ]
    found = amended(last, gone, seq=9, time=NOW, spool=SpoolState())
    assert (found.losses, found.in_doubt, found.stages) == (
        last.losses,
        last.in_doubt,
        last.stages,
    )
    assert found.spool == SpoolCounts(*amount_of(20, 31), 0, 0)


@pytest.mark.parametrize("steps", [[(20, 31)], [(20, 22), (22, 31)], [(20, 30), (30, 31)]])
def test_records_that_were_being_spooled_at_the_end_stay_in_doubt(steps):
    """The first two of eleven: the run did not learn that they were written, too."""
    doubtful, waiting = amount_of(20, 22), amount_of(22, 31)
    record = msgspec.structs.replace(
        last_record(),
        in_doubt={"shutdown": Loss(*doubtful)},
        spool=SpoolCounts(*waiting, *STATE),
    )
    assert unsettled(record) == 0
    for first, end in steps:
        amounts = {THREE_IN: amount_of(first, end)}
        gone = [Gone(EPOCH, Stream.FLOWS, amounts, terms.SPOOL_FULL)]
        record = amended(record, gone, seq=record.seq + 1, time=NOW, spool=SpoolState())
        assert unsettled(record) == 0
    assert record.losses["spool_full"] == Loss(*waiting)
    assert (record.in_doubt, record.spool) == ({"shutdown": Loss(*doubtful)}, NO_SPOOL)
    assert difference(record, amount_of(0, 20)) == doubtful[1:]


def test_a_killed_run_may_have_spooled_more_than_it_counted():
    last = msgspec.structs.replace(last_record(final=False), stages={})
    gone = [Gone(EPOCH, Stream.NEW_FLOWS, {THREE_IN: RecordAmount(12)}, terms.SPOOL_DAMAGED)]
    found = amended(last, gone, seq=9, time=NOW, spool=STATE)
    assert found.spool == SpoolCounts(0, *amount_of(20, 31)[1:], *STATE)
    assert found.stages == {"new_flows": StageCounts(0, 0, 0, 0, 0, 12, 0)}
    assert found.losses["spool_damaged"] == Loss(12, 0, 0)
    assert not found.final


@given(
    st.lists(st.tuples(st.sampled_from(["lost", "doubt", "drained"]), st.integers(1, 4))),
    st.booleans(),
)
def test_amending_step_by_step_is_amending_at_once(steps, at_once):
    """Whatever becomes of the records that waited: the equation holds, counts only grow."""
    last, record, place = last_record(), last_record(), 20
    published = amount_of(0, 20)
    doubtful = RecordAmount()
    gone = []
    for fate, count in steps:
        amount = amount_of(place, place + count)
        place += amount.records
        if fate == "drained":
            published = published.plus(amount)
            continue
        gone.append(
            Gone(EPOCH, Stream.FLOWS, {THREE_IN: amount}, terms.SPOOL_FULL, fate == "doubt")
        )
        doubtful = doubtful.plus(amount) if fate == "doubt" else doubtful
        if not at_once:
            later = amended(record, gone[-1:], seq=record.seq + 1, time=NOW, spool=STATE)
            assert later.losses["overflow_lost"] == record.losses["overflow_lost"]
            assert later.stages["flows"].failed >= record.stages["flows"].failed
            record = later
    if at_once:
        record = amended(last, gone, seq=2, time=NOW, spool=STATE)
    # Not all of it need have left the spool.
    published = published.plus(amount_of(place, 31))
    assert difference(record, published.plus(doubtful)) == (0, 0)
    assert unsettled(record) == 0
    assert record.host_id == HOST

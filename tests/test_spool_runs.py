"""Books of earlier runs in the checkpoint, and their amended counters records."""

from __future__ import annotations

import msgspec
import pytest
from support.published import Published
from support.records import EPOCH

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.ledgers import Ledgers
from flowstream.accounting.outcomes import Gone
from flowstream.accounting.snapshot import Moment, SpoolState
from flowstream.records import CountersRecord, Loss, SpoolCounts
from flowstream.spool.books import Books
from flowstream.spool.live import LiveRun
from flowstream.spool.runs import EarlierRun
from flowstream.streams import Stream

TOPIC = "site.counters"
NOW, STATE = Moment(EPOCH + 86_400 * 10**9, 31), SpoolState(4_099, EPOCH + 5)
AMOUNT = RecordAmount(3, 71, 7_103)


def counters(seq: int, if_index: int) -> CountersRecord:
    """Final counters of an interface that has 11 records in the spool."""
    return msgspec.structs.replace(
        Published().counters[1],
        seq=seq,
        if_index=if_index,
        spool=SpoolCounts(11, 211, 21_101, 1, 1),
    )


def gone(record: CountersRecord, stream: Stream = Stream.FLOWS) -> Gone:
    return Gone(EPOCH, stream, {AttachmentKey.of_record(record): AMOUNT}, "spool_full")


def ended(*records: CountersRecord, lost: Gone | None = None) -> EarlierRun:
    own = LiveRun(Ledger())
    for record in records:
        own.note(record, TOPIC)
    if lost is not None:
        own.lose(lost)
    return EarlierRun(EPOCH, own.saved(ended=True)[0])


def test_a_run_that_lost_nothing_has_nothing_to_publish():
    run = ended(counters(40, 3), counters(41, 5))
    run.amend(NOW, STATE)
    assert (run.topic, run.is_due, run.post()) == (TOPIC, False, [])


def test_losses_since_the_last_counters_are_published_once_they_are_saved():
    first, second = counters(40, 3), counters(41, 5)
    run = ended(first, second, lost=gone(first))
    assert run.is_due
    assert run.post() == []
    run.amend(NOW, STATE)
    again = EarlierRun(EPOCH, run.saved())
    (posted,) = run.post()
    assert run.post() == []
    # A crash after the checkpoint repeats the record exactly.
    assert again.post() == [posted]
    assert (posted.seq, posted.if_index, posted.final) == (42, 3, True)
    assert posted.losses["spool_full"] == Loss(*AMOUNT)
    assert posted.spool == SpoolCounts(8, 140, 13_998, *STATE)
    run.settle(posted.seq, written=False)
    assert run.post() == [posted]
    run.settle(posted.seq, written=True)
    assert not run.is_due


def test_later_losses_get_another_number_and_add_up():
    record = counters(40, 3)
    run = ended(record)
    for seq in (41, 42):
        run.lose(gone(record))
        run.amend(NOW, STATE)
        (posted,) = run.post()
        assert posted.seq == seq
        run.settle(seq, written=True)
    assert posted.losses["spool_full"].records == 2 * AMOUNT.records


def test_counters_that_are_gone_are_published_as_they_were():
    first, second = counters(40, 3), counters(41, 5)
    run = ended(first, second)
    run.lose(Gone(EPOCH, Stream.COUNTERS, {AttachmentKey(0): AMOUNT}, "spool_full"))
    run.amend(NOW, STATE)
    assert run.post() == [first, second]


def test_a_killed_run_may_have_made_more_counters_than_the_checkpoint_has():
    own, record = LiveRun(Ledger()), counters(40, 3)
    own.note(record, TOPIC)
    run = EarlierRun(EPOCH, own.saved(ended=False)[0])
    run.lose(gone(record))
    run.amend(NOW, STATE)
    (posted,) = run.post()
    assert posted.seq > 1_000_000


def test_counters_include_what_was_lost_before_them():
    own, record = LiveRun(Ledger()), counters(40, 3)
    own.note(record, TOPIC)
    own.lose(gone(record))
    saved, number = own.saved(ended=False)
    # The checkpoint is not written: these counters do not have it.
    own.note(counters(41, 3), TOPIC)
    assert EarlierRun(EPOCH, own.saved(ended=True)[0]).is_due
    own.confirm(number)
    assert own.ledger.account(AttachmentKey.of_record(record)).losses == {"spool_full": AMOUNT}
    own.note(counters(42, 3), TOPIC)
    assert not EarlierRun(EPOCH, own.saved(ended=True)[0]).is_due
    assert saved.left == own.saved(ended=True)[0].left


def test_books_do_not_grow_with_interfaces_that_come_and_go():
    """Only those that wait for something are kept, and the last few."""
    own = LiveRun(Ledger())
    own.note(counters(0, 3), TOPIC)
    sizes = []
    for seq in range(1, 1_000):
        record = msgspec.structs.replace(counters(seq, 4 + seq), spool=SpoolCounts(0, 0, 0, 1, 1))
        own.note(record, TOPIC)
        sizes.append(len(own.saved(ended=False)[0].attachments))
    assert max(sizes) == sizes[-1] < 100
    # The first one, which waits, is there.
    own.lose(gone(counters(0, 3)))
    assert EarlierRun(EPOCH, own.saved(ended=True)[0]).is_due


@pytest.mark.parametrize(
    "saved",
    [
        pytest.param([], id="nothing"),
        pytest.param([b""], id="no octets"),
        pytest.param([b"\x93\xa1\xff\x00\x90"], id="a topic that is not UTF-8"),
        pytest.param([b"\x94\xa1t\x00\x90" + 50_000 * b"\x91" + b"\x90"], id="deep nesting"),
    ],
)
def test_damaged_books_are_left_out(saved):
    books = Books(Ledgers(1_025_024, Ledger()), 1_025_024)
    books.load({1_024_000: saved}, {})
    assert books.topics == set()
    kept, _ = books.saved(frozenset((1_024_000,)))
    assert kept == {}
    # Intact ones are not.
    books.load({1_024_000: [b"\x93\xa1t\x00\x90"]}, {})
    assert books.topics == {"t"}

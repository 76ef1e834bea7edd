"""What a run keeps of attachments that went."""

from __future__ import annotations

from flowstream.accounting.account import Account, StageCount
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.identity import Identity
from flowstream.accounting.past import Counts, Past
from flowstream.accounting.run import Run

KERNEL = KernelCounts(
    Amount(101, 10_007), {"non_ip": Amount(3, 211)}, {"overflow_lost": RecordAmount(5, 5, 307)}
)


def account() -> Account:
    return Account(
        flows=StageCount(drained=13, encoded=13, queued=13, acknowledged=11, failed=2),
        new_flows=StageCount(drained=7, encoded=7, queued=7, acknowledged=7),
        losses={"delivery_timeout": RecordAmount(2, 17, 1_009)},
    )


def test_counts_come_back_as_they_were():
    past = Past()
    past.keep(AttachmentKey(3), Counts(account(), KERNEL))
    assert past.take(AttachmentKey(3)) == Counts(account(), KERNEL)
    assert past.take(AttachmentKey(3)) is None
    assert past.seen_packets == past.sums.total() == 0


def test_the_oldest_are_forgotten_and_stay_in_the_sums():
    past = Past(most=5)
    for index in range(11):
        past.keep(AttachmentKey(index), Counts(account(), KERNEL))
    kept = [index for index in range(11) if past.get(AttachmentKey(index))]
    assert kept == [6, 7, 8, 9, 10]
    assert past.take(AttachmentKey(5)) is None
    assert past.seen_packets == 11 * 101
    assert past.sums["flow_records"] == 11 * 11


def test_a_run_goes_on_with_the_account_of_an_interface_that_is_back():
    run = Run(Identity(0, bytes(16), "host-a", bytes(16)))
    for index in (3, 5):
        run.ledger.reopen(AttachmentKey(index), account())
    sums = run.sums()
    run.close_account(AttachmentKey(3), KERNEL)
    assert [*run.ledger.accounts()] == [AttachmentKey(5)]
    assert run.sums() == sums
    assert run.reopen_account(AttachmentKey(3)) == KERNEL
    assert run.ledger.account(AttachmentKey(3)) == account()
    assert run.sums() == sums
    assert run.reopen_account(AttachmentKey(7)) is None

"""The books of a run: what they have when its agent is killed, and in what order."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.books import Kept, header
from support.records import SAMPLER

from flowstream.accounting import books, terms
from flowstream.accounting.account import Account, StageCount
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Entry, Facts, Seqs
from flowstream.accounting.identity import Identity
from flowstream.accounting.run import Known, Run
from flowstream.chain.books import Books
from flowstream.errors import KernelError
from flowstream.streams import Stream

pytestmark = pytest.mark.anyio

EPOCH = 1_763_800_000_000_000_000
KEY = AttachmentKey(3)
ETH0 = Facts("eth0", "site", "native", 7, "xdp_flow")
COUNTS = KernelCounts(
    Amount(101, 10_007),
    {reason: Amount(3, 211) for reason in terms.NO_FLOW},
    {terms.OVERFLOW_LOST: RecordAmount(1, 1, 67), terms.ANNOUNCEMENT_LOST: RecordAmount(1)},
)


class Site:
    """A run and its books, kept in memory."""

    def __init__(self) -> None:
        identity = Identity(EPOCH, bytes(16), "host-a", SAMPLER)
        self.run, self.kept = Run(identity), Kept()
        self.books = Books(self.kept, header(identity), self.run)

    @property
    def entry(self) -> books.Entry:
        return books.read(self.kept.items()).entries[KEY]


async def test_numbers_are_written_after_the_accounts_that_count_them():
    site = Site()
    site.run.know(KEY, Known(ETH0, attached=True, kernel=None))
    written = []
    put = site.kept.put
    site.kept.put = lambda key, octets: (written.append(key), put(key, octets))
    site.run.take_seq(Stream.FLOWS, 5)
    site.run.ledger.account(KEY).flows.encoded += 5
    site.books.change(KEY)
    site.run.write_books()
    assert written == [KEY.code, books.SEQS]
    # Killed between the two: no number is used twice.
    del site.kept[books.SEQS]
    assert Run.restore(books.read(site.kept.items())).next_seq(Stream.FLOWS) == 5


async def test_nothing_is_written_twice_and_nothing_without_a_change():
    site = Site()
    site.run.know(KEY, Known(ETH0, attached=True, kernel=None))
    before = site.kept.puts
    site.run.write_books()
    assert site.kept.puts == before
    for _ in range(3):
        site.books.change(KEY)
    site.run.write_books()
    assert site.kept.puts == before + 1


async def test_an_expected_attachment_goes_on_where_an_earlier_one_of_its_key_ended():
    site = Site()
    site.run.know(KEY, Known(ETH0, attached=True, kernel=None))
    site.run.ledger.account(KEY).acknowledged = Amount(98, 9_796)
    site.run.know(KEY, Known(ETH0, attached=False, kernel=COUNTS))
    site.run.close_account(KEY, COUNTS)
    site.books.expect(KEY, Facts("eth0"))
    assert (site.entry.attached, site.entry.kernel) == (True, COUNTS)
    assert site.entry.account.acknowledged == Amount(98, 9_796)
    # It was not made: its final counters may still be on their way.
    site.books.dismiss(KEY, None)
    assert site.entry.account.acknowledged == Amount(98, 9_796)


async def test_an_attachment_that_was_not_made_leaves_nothing():
    site = Site()
    site.books.expect(KEY, Facts("eth0"))
    assert site.entry == books.Entry(Facts("eth0"), True, None, Account())
    site.books.dismiss(KEY, None)
    assert books.read(site.kept.items()).entries == {}
    assert site.run.known == {}


async def test_what_the_map_does_not_take_is_written_later():
    site, faults = Site(), []
    site.books.on_fault = faults.append
    site.run.know(KEY, Known(ETH0, attached=True, kernel=None))
    put = site.kept.put

    def refuse(key: int, octets: bytes) -> None:
        raise KernelError("no memory")

    site.kept.put = refuse
    site.run.ledger.account(KEY).doubt(RecordAmount(1, 2, 3), "shutdown")
    site.books.change(KEY)
    site.run.write_books()
    assert [str(each) for each in faults] == ["no memory"]
    site.kept.put = put
    site.run.write_books()
    assert site.entry.account.in_doubt == {"shutdown": RecordAmount(1, 2, 3)}


def test_what_was_counted_before_an_account_is_reopened_is_not_lost():
    site = Site()
    account = Account(acknowledged=Amount(98, 9_796), spool=RecordAmount(1, 2, 3))
    account.flows.drained = account.flows.acknowledged = 7
    account.lose(RecordAmount(1, 5, 500), "shutdown")
    since = site.run.ledger.account(KEY)
    since.flows.drained, since.new_flows.encoded = 11, 3
    since.publish(Stream.FLOWS, RecordAmount(2, 10, 1_000))
    since.lose(RecordAmount(1, 1, 60), "shutdown")
    site.run.ledger.reopen(KEY, account)
    found = site.run.ledger.account(KEY)
    assert (found.flows.drained, found.flows.acknowledged, found.new_flows.encoded) == (18, 9, 3)
    assert found.acknowledged == Amount(108, 10_796)
    assert found.losses == {"shutdown": RecordAmount(2, 6, 560)}
    assert found.spool == RecordAmount(1, 2, 3)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "no header"),
        ({books.HEADER: b"\xff"}, "no version"),
        ({books.HEADER: books.encode([2])}, "version 2 of the format"),
        ({books.HEADER: books.encode([1, "0.1"])}, "Expected `array`"),
        ({books.SEQS: books.encode(Seqs())}, "no header"),
    ],
)
def test_books_that_cannot_be_read_say_why(entries, says):
    with pytest.raises(ValueError, match=says):
        books.read(entries.items())


HEADER = header(Identity(EPOCH, bytes(16), "host-a", SAMPLER))


def entry(account: Account | None = None, kernel: KernelCounts | None = None) -> bytes:
    return books.encode(Entry(ETH0, True, kernel, account or Account()))


@pytest.mark.parametrize(
    ("number", "octets", "text"),
    [
        (books.HEADER, books.encode(replace(HEADER, topic_prefix="/etc/x")), "matching regex"),
        (books.HEADER, books.encode(replace(HEADER, topic_prefix="../x")), "matching regex"),
        (books.SEQS, books.encode(Seqs(2**62)), "<= 4611686018427387903"),
        (KEY.code, entry(Account(acknowledged=Amount(-1, 0))), ">= 0"),
        (KEY.code, entry(Account(flows=StageCount(encoded=2**63))), "<= 4611686018427387903"),
        (KEY.code, entry(Account(spool=RecordAmount(0, -1))), ">= 0"),
        (KEY.code, entry(kernel=KernelCounts(Amount(), {}, COUNTS.losses)), "other terms"),
        (KEY.code, entry(kernel=KernelCounts(Amount(), COUNTS.no_flow)), "other terms"),
        (2**33, entry(), "8589934592 is not the code of an attachment"),
    ],
)
def test_books_that_no_run_writes_are_refused(number, octets, text):
    """Whatever else the agent's user runs can write to the map."""
    kept = {books.HEADER: books.encode(HEADER), KEY.code: entry(kernel=COUNTS)}
    assert books.read(kept.items()).entries[KEY].kernel == COUNTS
    with pytest.raises(ValueError, match=text):
        books.read((kept | {number: octets}).items())

"""Books that a run left in a map of the kernel: a run that can go on, or one readable line."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from support.books import Kept, header
from support.records import SAMPLER

from flowstream.accounting import books, terms
from flowstream.accounting.account import Account
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Entry, Facts, Seqs
from flowstream.accounting.identity import Identity
from flowstream.accounting.run import Run
from flowstream.chain.books import Books
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_HEAD = struct.Struct(">QH")
HEADER = header(Identity(1_763_800_000_000_000_000, bytes(16), "host-a", SAMPLER))


def seeds() -> Sequence[bytes]:
    """Return the books of a run with nothing, and of one with an attachment that went."""
    kernel = KernelCounts(
        Amount(7, 701),
        dict.fromkeys(terms.NO_FLOW, Amount(1, 60)),
        {terms.OVERFLOW_LOST: RecordAmount(1, 1, 60), terms.ANNOUNCEMENT_LOST: RecordAmount(1)},
    )
    account = Account(acknowledged=Amount(3, 301), spool=RecordAmount(1, 3, 300))
    account.doubt(RecordAmount(2, 5, 500), "shutdown")
    entry = Entry(Facts("eth0", "site", "native", 7, "xdp_flow"), False, kernel, account)
    empty = {books.HEADER: books.encode(HEADER)}
    return [
        _packed(empty),
        _packed(empty | {books.SEQS: books.encode(Seqs(5, 7, 11)), 6: books.encode(entry)}),
        _packed({books.HEADER: books.encode([2, "another version"])}),
    ]


def target(data: bytes) -> None:
    """Read books, and go on with the run."""
    try:
        run = Run.restore(books.read(_items(data)))
    except ValueError as err:
        assert len(str(err)) < 1_000
        return
    kept = Kept()
    again = Books(kept, HEADER, run)
    for key in run.ledger.accounts():
        again.note(key)
    # What was read is what is kept.
    ended = books.read(kept.items())
    assert {key: each.account for key, each in ended.entries.items()} == run.ledger.accounts()
    assert [ended.seq(stream) for stream in Stream] == [run.next_seq(stream) for stream in Stream]
    assert all(isinstance(key, AttachmentKey) for key in ended.entries)


def _packed(entries: Mapping[int, bytes]) -> bytes:
    return b"".join(_HEAD.pack(key, len(each)) + each for key, each in entries.items())


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        key, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size + length
        yield key, data[at - length : at]

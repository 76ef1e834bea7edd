"""The books of earlier runs in the spool's checkpoint, whatever they have."""

from __future__ import annotations

import pytest

from flowstream.accounting.ledger import Ledger
from flowstream.spool.books import Books


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
    books = Books(Ledger(), 1_024_001)
    books.load({1_024_000: saved})
    assert books.topics == set()
    assert books.saved(frozenset((1_024_000,))) == {}
    # Intact ones are not.
    books.load({1_024_000: [b"\x93\xa1t\x00\x90"]})
    assert books.topics == {"t"}

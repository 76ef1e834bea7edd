"""Answers of processes without privileges, which hostile input may have taken over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from flowstream.accounting import books
from flowstream.accounting.account import Account
from flowstream.accounting.books import Decoded, Entry, Facts, Seqs
from flowstream.accounting.run import Run
from flowstream.errors import FlowstreamError
from flowstream.host import unprivileged
from fuzz.books import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence


_BOOKS = Decoded(HEADER, Seqs(5, 7, 11), {6: Entry(Facts("eth0"), False, None, Account())})


def seeds() -> Sequence[bytes]:
    """Return values of several types, an error, and what no such process writes."""
    return [
        b'{"value":[1,2,2147483647],"error":"","kind":""}',
        b'{"value":"text","error":"","kind":""}',
        b'{"value":null,"error":"the registry is away","kind":"SinkError"}',
        b'{"value":' + msgspec.json.encode(_BOOKS) + b',"error":"","kind":""}',
        b'{"error":"\xff"}',
        b'{"value":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ]


def target(data: bytes) -> None:
    """Read an answer as a list of numbers, as a text, and as books of a run that can go on."""
    with contextlib.suppress(FlowstreamError):
        assert all(isinstance(each, int) for each in unprivileged.result(data, list[int]))
    with contextlib.suppress(FlowstreamError):
        assert isinstance(unprivileged.result(data, str), str)
    with contextlib.suppress(FlowstreamError, ValueError):
        Run.restore(books.checked(unprivileged.result(data, Decoded)))

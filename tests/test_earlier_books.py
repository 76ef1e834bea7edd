"""The books of earlier runs, which processes without privileges wrote, are read without any."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.books import header
from support.pinned import FIRST_EPOCH, ROOT, PinnedRun

from flowstream.accounting import books
from flowstream.accounting.account import Account, Outcome, StageCount
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.books import Entry, Facts
from flowstream.accounting.identity import Identity
from flowstream.accounting.run import Run
from flowstream.accounting.terms import NO_FLOW
from flowstream.chain.chain import Chain
from flowstream.config.run import RunConfig
from flowstream.detach import detach
from flowstream.errors import KernelError
from flowstream.host.privileges import User
from flowstream.kernel import books_map, earlier_books
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.generation import BOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = User(65534, 65534)
IDENTITY = Identity(FIRST_EPOCH, bytes(16), "host", bytes(16))
HEADER = books.encode(header(IDENTITY))


@contextmanager
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, str]]]:
    """Yield what returns the identity of the process that decoded books."""
    reading, writing = os.pipe()
    decode = books.decode

    def noted(items):
        os.write(writing, Path("/proc/self/status").read_bytes())
        return decode(items)

    def status() -> dict[str, str]:
        lines = os.read(reading, 1 << 16).decode().splitlines()
        return {
            name: " ".join(value.split()) for name, _, value in (x.partition(":") for x in lines)
        }

    monkeypatch.setattr(books, "decode", noted)
    try:
        yield status
    finally:
        os.close(reading)
        os.close(writing)


def test_the_decoder_is_a_process_without_privileges(monkeypatch):
    with observed(monkeypatch) as status:
        assert earlier_books.read([(books.HEADER, HEADER)], NOBODY).header.host == "host"
        found = status()
    assert found["Uid"] == found["Gid"] == "65534 65534 65534 65534"
    assert {found["CapEff"], found["CapPrm"], found["CapInh"]} == {"0" * 16}
    assert int(found["Pid"]) != os.getpid()


@pytest.fixture
def left(bpffs):
    """A directory of pins in which a run left its books."""
    place = bpffs / "flowstream"
    with PinnedRun(place) as run, BooksMap.from_fd(run.generation.open(BOOKS)) as kept:
        kept.put(books.HEADER, HEADER)
    return place


def test_a_run_reads_the_books_before_it_so(left, monkeypatch):
    config = RunConfig(interfaces=["lo"], sink="stdout:", pin=str(left))
    this = Run(IDENTITY)
    with observed(monkeypatch) as status:
        with pytest.raises(KernelError, match="has other layouts"):
            Chain(config, str(left), User(*ROOT), this)
        assert set(status()["CapEff"]) == {"0"}


def test_detach_reads_them_so(left, monkeypatch):
    with observed(monkeypatch) as status:
        assert "0 packets had not been published" in detach(str(left)).runs[0]
        assert set(status()["CapEff"]) == {"0"}


def test_what_a_hostile_decoder_answers_is_checked(monkeypatch):
    for changed, text in (
        ({"entries": {2**33: Entry(Facts("eth0"), False, None, Account())}}, "not the code"),
        ({"entries": {-1: Entry(Facts("eth0"), False, None, Account())}}, "not the code"),
        (
            {"header": msgspec.structs.replace(header(IDENTITY), version=2)},
            "version 2 of the format",
        ),
    ):
        answer = msgspec.structs.replace(books.decode([(books.HEADER, HEADER)]), **changed)
        monkeypatch.setattr(books, "decode", lambda _, answer=answer: answer)
        with pytest.raises(ValueError, match=text):
            earlier_books.read([], NOBODY)
        monkeypatch.undo()


def test_the_largest_books_are_read():
    """As many attachments as a map has entries, and counts of as many digits as there can be."""
    most = 2**62 - 1
    amount, records = Amount(most, most), RecordAmount(most, most, most)
    stage = StageCount(*[most] * 7)
    outcome = Outcome(stage, stage, amount, {"shutdown": records}, {"agent_killed": records})
    account = Account(
        stage, stage, amount, outcome.losses, outcome.in_doubt, spool=records, left=outcome
    )
    kernel = KernelCounts(
        amount,
        dict.fromkeys(NO_FLOW, amount),
        {"overflow_lost": records, "announcement_lost": records},
    )
    entry = Entry(Facts("x" * 15, "n" * 64, "native", 7, "xdp_flow"), True, kernel, account)
    octets = books.encode(entry)
    items = [(books.HEADER, HEADER)] + [(code, octets) for code in range(books_map.ENTRIES - 2)]
    found = earlier_books.read(items, NOBODY)
    assert len(found.entries) == books_map.ENTRIES - 2
    assert all(each == entry for each in found.entries.values())


def test_damage_is_named():
    with pytest.raises(ValueError, match="no version"):
        earlier_books.read([(books.HEADER, b"\xff")], NOBODY)

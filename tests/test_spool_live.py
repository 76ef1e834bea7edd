"""Books of a run whose records are in the spool: exact wherever its agent is killed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from flowstream.accounting.account import Account
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.outcomes import Gone
from flowstream.accounting.tally import Tally
from flowstream.messages import MessageBatch
from flowstream.spool import runs
from flowstream.spool.live import LiveRun
from flowstream.streams import Stream

EPOCH = 1_024_000
KEY = AttachmentKey(3)


def tally(*records: int) -> Tally:
    """Record n stands for 2ⁿ octets: a sum tells which records it is of."""
    octets = np.array([1 << n for n in records], np.uint64)
    return Tally(np.full(len(records), KEY.code, np.uint64), octets % np.uint64(7), octets)


def batch(*records: int) -> MessageBatch:
    n = len(records)
    return MessageBatch(
        "t", 0, [0] * n, [b""] * n, [b""] * n, (), (), Stream.FLOWS, tally(*records), EPOCH
    )


def amounts(*records: int) -> dict[AttachmentKey, RecordAmount]:
    return dict(tally(*records).sums())


@dataclass
class Disk:
    """A spool: what was written, what left it, and the checkpoint."""

    written: set[int] = field(default_factory=set)
    published: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    saved: list[bytes] = field(default_factory=list)
    left: tuple[set[int], set[int]] = (set(), set())

    @property
    def waiting(self) -> set[int]:
        """What a next process finds."""
        return self.written - self.left[0] - self.left[1]


class Process:
    """A process that publishes records 0, 1, …; its books are written after each step."""

    def __init__(self, rng: random.Random, disk: Disk, account: Account | None = None) -> None:
        self.rng, self.disk = rng, disk
        self.ledger = Ledger({KEY: account} if account else None)
        self.live = LiveRun(self.ledger)
        waiting = {Stream.FLOWS: amounts(*disk.waiting)} if disk.waiting else {}
        saved = runs.decode(EPOCH, disk.saved) if disk.saved else None
        self.live.take_over(saved, waiting)
        # What an earlier process had published and not noted is read again.
        disk.published, disk.lost = set(disk.left[0]), set(disk.left[1])
        self.open: set[int] = set()
        self.unnoted: set[int] = set()
        self.unconfirmed: list[int] = []

    def encode(self, record: int) -> None:
        self.ledger.encoded(Stream.FLOWS, tally(record))
        self.open.add(record)

    def step(self, direct: set[int]) -> None:
        """Do one of the things that may happen, if it is possible."""
        disk, on_disk = self.disk, sorted(self.disk.waiting - self.disk.published - self.disk.lost)
        match self.rng.randrange(6):
            case 0 if self.open:
                record = self.open.pop()
                self.ledger.acknowledged(batch(record), slice(0, 1))
                direct.add(record)
            case 1 if self.open:
                record = self.open.pop()
                disk.written.add(record)
                self.unnoted.add(record)
            case 2 if self.unnoted:
                self.ledger.spooled(batch(self.unnoted.pop()), slice(0, 1))
            case 3 if on_disk:
                record = self.rng.choice(on_disk)
                # The drain reads a record once its write is known.
                if record not in self.unnoted:
                    self.live.publish(Stream.FLOWS, amounts(record))
                    disk.published.add(record)
            case 4 if on_disk:
                record = self.rng.choice(on_disk)
                if record not in self.unnoted:
                    self.live.lose(Gone(EPOCH, Stream.FLOWS, amounts(record), "spool_full"))
                    disk.lost.add(record)
            case 5:
                if self.unconfirmed and self.rng.randrange(2):
                    self.live.confirm(self.unconfirmed.pop(0))
                else:
                    saved, number = self.live.saved(ended=False)
                    disk.saved = runs.encode(saved)
                    disk.left = (set(disk.published), set(disk.lost))
                    self.unconfirmed = [*self.unconfirmed, number]


def octets(records: set[int]) -> int:
    return sum(1 << n for n in records)


@pytest.mark.parametrize("seed", range(60))
def test_a_process_that_takes_over_knows_what_became_of_every_record(seed):
    rng, disk, direct = random.Random(seed), Disk(), set()
    process, record = Process(rng, disk), 0
    for _ in range(4):
        for _ in range(10):
            process.encode(record)
            record += 1
            for _ in range(rng.randrange(5)):
                process.step(direct)
        # Killed: its books are all that is left of it, and the disk.
        books = msgspec.msgpack.encode(process.ledger.account(KEY))
        highest = msgspec.msgpack.decode(books, type=Account)
        process = Process(rng, disk, msgspec.msgpack.decode(books, type=Account))
        account = process.ledger.account(KEY)
        published, lost = disk.left
        assert account.acknowledged.l2_bytes == octets(direct | published)
        losses = account.losses.get("spool_full", RecordAmount())
        assert losses.l2_bytes == octets(lost)
        assert account.spool.l2_bytes == octets(disk.waiting)
        known = direct | published | lost | disk.waiting
        assert account.unsettled == record - len(known)
        # Nothing that its counters may have said is taken back.
        assert account.flows.acknowledged >= highest.flows.acknowledged
        assert account.flows.failed >= highest.flows.failed
        assert account.flows.spooled >= highest.flows.spooled

"""Closing an earlier run: final counters are tried again until they are published."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog.testing
from support.agent import delivered
from support.books import header
from support.chains import directory
from support.outcomes import eventually
from support.pinned import PinnedRun
from support.records import SAMPLER

from flowstream.accounting import books
from flowstream.accounting.counters import Rhythm
from flowstream.accounting.identity import Identity
from flowstream.accounting.ledgers import Ledgers
from flowstream.accounting.run import Run
from flowstream.accounting.snapshot import SpoolState
from flowstream.chain.predecessor import Predecessor
from flowstream.chain.predecessors import Predecessors
from flowstream.closing import Closing
from flowstream.encode import make_encoder
from flowstream.pipeline.publisher import Means
from flowstream.records import CountersRecord, decode
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.net import Wire

    from flowstream.messages import MessageBatch

pytestmark = pytest.mark.anyio

PACKETS, FLOWS = 10_007, 307


class Shelf:
    """A sink that publishes everything but the first ``refused`` counters."""

    fault = None

    def __init__(self, ledgers: Ledgers, refused: int) -> None:
        self._ledgers, self._refused = ledgers, refused
        self.batches: list[MessageBatch] = []

    def partitions(self, topic: str) -> int:
        return 3

    async def send(self, batch: MessageBatch) -> None:
        everything = slice(0, len(batch))
        self.batches.append(batch)
        if batch.stream is Stream.COUNTERS and self._refused:
            self._refused -= 1
            self._ledgers.failed(batch, everything, "delivery_timeout")
        else:
            self._ledgers.acknowledged(batch, everything)

    def counters(self) -> list[CountersRecord]:
        values = [each.values[0] for each in self.batches if each.stream is Stream.COUNTERS]
        return [record for value in values if isinstance(record := decode(value), CountersRecord)]


@pytest.fixture
def pins(bpffs: Path) -> Iterator[Path]:
    with directory(bpffs, "pins") as place:
        yield place


class Site(Closing):
    """A run that was left, and what closes it."""

    def __init__(self, pins: Path, refused: int = 0) -> None:
        self.successor = PinnedRun(pins, 1)
        (leftovers,) = self.successor.earlier
        identity = Identity(leftovers.epoch, bytes(16), "host-a", SAMPLER)
        self.earlier = Predecessor(leftovers, header(identity), Run(identity))
        self.ledgers = Ledgers(0, Run(identity).ledger)
        self.ledgers.add(leftovers.epoch, self.earlier.run.ledger)
        self.shelf = Shelf(self.ledgers, refused)
        self.closed: list[int] = []
        means = Means(
            self.shelf,
            lambda *_: None,
            SpoolState,
            self.closed.append,
            make_encoder("json", identity),
        )
        self.faults: list[Exception] = []
        self.closing = Predecessors(
            [self.earlier], means, self.ledgers, Rhythm(1, 1), self.faults.append
        )

    def close(self) -> None:
        """Release everything; pins stay."""
        self.successor.close()


@pytest.fixture
def left(pins: Path, wire: Wire) -> int:
    """Packets that a run has left: it was killed before its books knew the interface."""
    sender, receiver = wire
    with PinnedRun(pins) as run:
        run.attach(receiver)
    return delivered(sender, receiver, PACKETS, "-f", FLOWS)


async def test_final_counters_are_tried_again_until_they_are_published(pins, wire, left):
    with Site(pins, refused=1) as site, structlog.testing.capture_logs() as logs:
        await site.closing.run(asyncio.Event())
        first, second = site.shelf.counters()
        assert [(each.seq, each.final) for each in (first, second)] == [(0, True), (1, True)]
        assert (second.seen_packets, second.stages["flows"].acknowledged) == (left, FLOWS)
        assert (second.if_index, second.if_name) == (wire.receiver.index, "")
        assert [each["event"] for each in logs] == [
            "earlier_link_detached",
            "run_not_closed",
            "run_closed",
        ]
        assert site.closed == [site.earlier.epoch]
        assert list(site.ledgers.by_epoch()) == [0]
        assert [each.name for each in pins.iterdir()] == [str(site.successor.epoch)]
        assert site.faults == []


async def test_a_run_that_ends_meanwhile_leaves_the_closing_to_the_next(pins, left):
    with Site(pins, refused=1_000) as site:
        stopping = asyncio.Event()
        closing = asyncio.ensure_future(site.closing.run(stopping))
        await eventually(lambda: len(site.shelf.counters()) == 1)
        stopping.set()
        await asyncio.wait_for(closing, 60)
        site.closing.write_books()
        assert (site.closed, site.faults) == ([], [])
        # Its books have what was published: nothing is published twice.
        ended = books.read(site.earlier.leftovers.books.items())
        (entry,) = ended.entries.values()
        assert entry.account.acknowledged.packets == left
        assert [ended.seq(stream) for stream in Stream] == [FLOWS, FLOWS, 1]

"""The drain of the spool reads on, however its attempts and its reads meet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.outcomes import eventually
from support.spools import append, flows, opened

from flowstream.accounting import terms
from flowstream.spool.drain import Drain

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowstream.messages import MessageBatch
    from flowstream.segments.spool import Spool
    from flowstream.segments.spooled import SpooledBatch
    from flowstream.spool.drain import Partition


pytestmark = pytest.mark.anyio


class Store:
    """A spool whose answer to a read without failing partitions can be held back."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.reading, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def read(self, without: Collection[Partition]) -> SpooledBatch | None:
        found = self._spool.read(frozenset(without))
        if without:
            self.reading.set()
            await self.answers.wait()
        return found


class Cluster:
    """Takes batches; the test settles them."""

    acknowledging = True
    memory_share = 0.0

    def __init__(self) -> None:
        self.sent: list[MessageBatch] = []

    async def send(self, batch: MessageBatch) -> None:
        self.sent.append(batch)


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another that fails"])
async def test_a_partition_that_recovers_during_a_read_is_read_on(tmp_path, others):
    """The read leaves its batches out, and nothing else tells the drain to look again."""
    spool, cluster = opened(tmp_path), Cluster()
    store = Store(spool)
    drain = Drain(store, cluster, lambda _: None, rate=None)
    running = asyncio.create_task(drain.run())
    partitions = (0, 1) if others else (0,)
    for partition in partitions:
        append(spool, flows(0, 5, partition))
    drain.wake()
    await eventually(lambda: len(cluster.sent) == len(partitions))
    for batch in [*cluster.sent]:
        drain.failed(batch, slice(0, 5), terms.NOT_AUTHORISED, in_doubt=False)
    append(spool, flows(5, 3))
    drain.wake()
    await eventually(lambda: len(cluster.sent) == 2 * len(partitions))
    store.reading.clear()
    store.answers.clear()
    drain.wake()
    await asyncio.wait_for(store.reading.wait(), 60)
    again = next(each for each in cluster.sent[len(partitions) :] if each.partition == 0)
    drain.acknowledged(again, slice(0, 5))
    store.answers.set()
    await eventually(lambda: (cluster.sent[-1].partition, len(cluster.sent[-1])) == (0, 3))
    running.cancel()
    spool.close()

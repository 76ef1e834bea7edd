"""A Kafka sink with a spool in the test's own process, and what came of its records."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Final

from flowstream.accounting.identity import Identity
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.ledgers import Ledgers
from flowstream.encode import make_encoder
from flowstream.kafka.sink import KafkaSink
from flowstream.kernel import clock
from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool
from flowstream.source import open_source
from flowstream.spool.books import Books
from flowstream.spool.sink import SpoolingSink
from support.outcomes import number
from support.spools import flows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker import Broker

    from flowstream.kafka.limits import Limits
    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import MessageBatch

EARLIER: Final = 1_024_000
LATER: Final = 2_048_000
"""Epochs of two runs."""


class Rig:
    """A sink for one topic; ``options`` are those of its parts."""

    def __init__(
        self,
        cluster: ClientSettings,
        topic: str,
        directory: Path,
        *,
        epoch: int = LATER,
        partitions: int = 1,
        limits: Limits | None = None,
        topic_settings: dict[str, str] | None = None,
        retention: Retention | None = None,
        rate: int | None = None,
    ) -> None:
        self.topic, self.epoch = topic, epoch
        self.ledger = Ledger()
        self.spool = Spool(directory, retention=retention or Retention())
        self.sink = SpoolingSink(
            lambda outcomes: KafkaSink(
                cluster,
                outcomes,
                partitions=partitions,
                limits=limits,
                topic_settings=topic_settings,
            ),
            self.spool,
            Books(Ledgers(epoch, self.ledger), epoch),
            partitions=partitions,
            encoder=make_encoder("json", Identity(epoch, bytes(16), "host-a", bytes(16))),
            clock=clock.now,
            rate=rate,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SpoolingSink]:
        """Prepare and start the sink; close it at the end."""
        self.sink.prepare([self.topic])
        await self.sink.start([self.topic])
        try:
            yield self.sink
        finally:
            await self.sink.close(10)

    def batch(
        self, first: int, count: int, partition: int = 0, *, size: int = 203
    ) -> MessageBatch:
        """Flow records numbered from ``first`` on, each of ``size`` octets."""
        now_ms = time.time_ns() // 1_000_000
        made = flows(first, count, partition, size=size, time_ms=now_ms)
        return dataclasses.replace(made, topic=self.topic, agent_epoch=self.epoch)

    @property
    def acknowledged(self) -> int:
        """Records of this run that are published."""
        return sum(each.flows.acknowledged for each in self.ledger.accounts().values())

    @property
    def waiting(self) -> int:
        """Records of this run in the spool."""
        return sum(each.spool.records for each in self.ledger.accounts().values())


async def numbers_in(broker: Broker, topic: str) -> list[int]:
    """Numbers of the records in a topic with one partition, in their order."""
    source = open_source(broker.url, [topic])
    return [number(m.value) async for batch in source.batches() for m in batch]

"""Cost of an outage: the whole way into the spool, and out of it to a broker: µs CPU.

Beside it what publishing costs without a spool, and with one that is not needed. The
records are those of a simulated host, in full batches.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from broker import Broker

from bench.fleet.hosts import Fleet
from bench.lane import Lane
from bench.measure import Row, Samples, Table, cpu_us
from bench.publish import BROKER
from bench.records import PARTITIONS
from flowstream.accounting.ledgers import Ledgers
from flowstream.encode import make_encoder
from flowstream.kafka.sink import KafkaSink
from flowstream.kernel import clock
from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool
from flowstream.spool.books import Books
from flowstream.spool.sink import SpoolingSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.accounting.ledger import Ledger
    from flowstream.encode import Encoder
    from flowstream.kafka.settings import ClientSettings
    from flowstream.sink import Sink

RECORDS: Final = 60_000
# Live records that take less than the half of the sink's memory are not spooled.
AT_ONCE: Final = 20_000
ROUNDS: Final = 5
FORMATS: Final = ("msgpack", "json")
FLEET: Final = Fleet(hosts=2, flows=RECORDS, intervals=1, seed=7)
DEADLINE_S: Final = 120.0
LIVE, IDLE, SPOOLED, DRAINED = "live, no spool", "live, spool empty", "spooled", "drained"


def measure() -> Iterator[Table]:
    """Live, spooled and drained, over live without a spool, by format."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BROKER))
        # Bound, and nobody listens.
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        away = broker.cluster.at((f"127.0.0.1:{nobody.getsockname()[1]}",))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for record_format in FORMATS:
            taken: dict[str, list[float]] = {}
            for number in range(ROUNDS + 1):
                for name, value in _round(runner, broker.cluster, away, record_format):
                    if number:
                        taken.setdefault(name, []).append(value)
            samples = {name: Samples(tuple(values)) for name, values in taken.items()}
            yield Table(
                f"Outage, {record_format}, {RECORDS:,} flows a sample",
                "µs CPU per record",
                LIVE,
                [Row(name, each, samples[LIVE]) for name, each in samples.items()],
                ["drained: from the start of the sink on, with its connections"],
            )


def _round(
    runner: asyncio.Runner, cluster: ClientSettings, away: ClientSettings, record_format: str
) -> Iterator[tuple[str, float]]:
    run = next(FLEET.runs())
    records = FLEET.records(run, 0)
    encoder, epoch = make_encoder(record_format, run.identity), run.identity.agent_epoch

    def lane(open_with: Callable[[Ledger], Sink]) -> Lane:
        prefix = f"outage-{record_format}"
        return Lane(runner, open_with, record_format, run.identity, prefix=prefix)

    with lane(lambda ledger: KafkaSink(cluster, ledger, partitions=PARTITIONS)) as live:
        yield LIVE, cpu_us(lambda: live.publish(records, AT_ONCE))
    with tempfile.TemporaryDirectory(prefix="flowstream-bench-") as directory:
        spools = [Spool(Path(directory), retention=Retention()) for _ in range(3)]
        with lane(lambda ledger: _spooling(cluster, spools[0], ledger, encoder, epoch)) as idle:
            yield IDLE, cpu_us(lambda: idle.publish(records, AT_ONCE))
        outage = lane(lambda ledger: _spooling(away, spools[1], ledger, encoder, epoch))
        outage.start()
        yield SPOOLED, cpu_us(lambda: outage.publish(records, AT_ONCE))
        outage.close()
        after = lane(lambda ledger: _spooling(cluster, spools[2], ledger, encoder, epoch))
        yield DRAINED, cpu_us(lambda: _drain(runner, after, spools[2]))
        after.close()


def _spooling(
    settings: ClientSettings, spool: Spool, ledger: Ledger, encoder: Encoder, agent_epoch: int
) -> SpoolingSink:
    """Return a sink as the agent has it."""
    return SpoolingSink(
        lambda outcomes: KafkaSink(settings, outcomes, partitions=PARTITIONS),
        spool,
        Books(Ledgers(agent_epoch, ledger), agent_epoch),
        partitions=PARTITIONS,
        encoder=encoder,
        clock=clock.now,
    )


def _drain(runner: asyncio.Runner, lane: Lane, spool: Spool) -> int:
    """Start a lane and wait until its spool is empty; return the number of records."""

    async def empty() -> None:
        async with asyncio.timeout(DEADLINE_S):
            while spool.records:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.05)

    lane.start()
    runner.run(empty())
    return RECORDS

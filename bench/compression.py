"""Each ``compression.type``, the whole way: from records to a broker's acknowledgement.

The records are those of a simulated host, as in ``bench.encoders``, in full batches and in
those of a host with few flows. CPU is that of this process, octets are those of the
broker's log; the clock on the wall has the broker's part in it, too. A broker unpacks
each batch to check it, but keeps the producer's compression.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, get_args

import uvloop
from broker import Broker

from bench.fleet.hosts import Fleet
from bench.lane import Lane
from bench.measure import Row, Samples, Table, cpu_s, cpu_us, interleave
from bench.publish import BROKER
from bench.records import PARTITIONS
from flowstream.kafka.settings import ClientSettings, Compression
from flowstream.sink import open_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.ledger import Ledger
    from flowstream.sink import Sink

CODECS: Final[tuple[Compression, ...]] = get_args(Compression)
FORMATS: Final = ("msgpack", "json")
# Records, and how many a host publishes at once; None is as many as there are.
FILLINGS: Final = {"full batches": (60_000, None), "200 flows an interval": (6_000, 200)}
ROUNDS: Final = 7
BASE: Final = "none"


def measure() -> Iterator[Table]:
    """Every codec over none, by format and filling."""
    fleet = Fleet(hosts=2, flows=max(count for count, _ in FILLINGS.values()), intervals=1, seed=7)
    run = next(fleet.runs())
    records = fleet.records(run, 0)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BROKER))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for record_format in FORMATS:
            for filling, (count, at_once) in FILLINGS.items():
                lanes = {}
                for codec in CODECS:
                    lane = Lane(
                        runner, _sink(broker, codec, record_format), record_format, run.identity,
                        prefix=f"{codec}-{record_format}-{at_once}",
                    )  # fmt: skip
                    lanes[codec] = stack.enter_context(lane)
                title = f"compression.type, {record_format}, {filling}"
                yield from _tables(title, broker, lanes, records[:count], at_once)


def _sink(broker: Broker, codec: Compression, record_format: str) -> Callable[[Ledger], Sink]:
    client = ClientSettings(compression=codec)
    return partial(
        open_sink, broker.url, partitions=PARTITIONS, record_format=record_format, client=client
    )


def _tables(
    title: str,
    broker: Broker,
    lanes: dict[Compression, Lane],
    records: NDArray[np.void],
    at_once: int | None,
) -> Iterator[Table]:
    walls: dict[str, list[float]] = {codec: [] for codec in lanes}

    brokers: dict[str, list[float]] = {codec: [] for codec in lanes}

    def sample(codec: Compression) -> float:
        began, spent = time.perf_counter_ns(), cpu_s(broker.pid)
        cost = cpu_us(lambda: lanes[codec].publish(records, at_once))
        brokers[codec].append((cpu_s(broker.pid) - spent) * 1e6 / len(records))
        walls[codec].append((time.perf_counter_ns() - began) / 1000 / len(records))
        return cost

    taken = interleave({codec: partial(sample, codec) for codec in lanes}, ROUNDS)
    rows = [Row(codec, samples, taken[BASE]) for codec, samples in taken.items()]
    sizes = {
        codec: _octets(broker, lane.prefix) / len(records) / (ROUNDS + 1)
        for codec, lane in lanes.items()
    }
    notes = [
        f"{codec}: {size:.1f} octets per record in the topic, {size / sizes[BASE]:.2f} of none; "
        f"{min(brokers[codec][1:]):.2f} µs CPU of the broker"
        for codec, size in sizes.items()
    ]
    yield Table(title, "µs CPU per record", BASE, rows, notes)
    elapsed = {codec: Samples(tuple(each[1:])) for codec, each in walls.items()}
    yield Table(
        f"{title}, by the clock on the wall",
        "µs per record",
        BASE,
        [
            Row(codec, each, elapsed[BASE], unit=f"{1e6 / each.fastest:,.0f} records/s")
            for codec, each in elapsed.items()
        ],
    )


def _octets(broker: Broker, prefix: str) -> int:
    logs = broker.log_dir.glob(f"{prefix}.flows-*/*.log")
    return sum(log.stat().st_size for log in logs)

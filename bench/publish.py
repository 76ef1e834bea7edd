"""Cost of publishing: sinks alone, and end to end from records to acknowledgements."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop
from broker import Broker

from bench.encoders import new_encoder
from bench.lane import Lane
from bench.measure import Row, Samples, Table, cpu_us, interleave
from bench.records import IDENTITY, PARTITIONS, flows
from flowstream.accounting.tally import Tally
from flowstream.encode import (
    partition_keys,
    partitions,
    split,
    stamp,
)
from flowstream.pipeline.publisher import ENCODE_RECORDS
from flowstream.sink import open_sink
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.messages import MessageBatch

RECORDS: Final = 100_000
FORMATS: Final = ("msgpack", "json", "protobuf", "avro")
TARGET_US: Final = {"msgpack": 2.5, "json": 5.0}
# Published records are not kept: a run writes gigabytes.
BROKER: Final = {"log.retention.bytes": str(256 << 20), "log.segment.bytes": str(64 << 20)}


def measure() -> Iterator[Table]:
    """Sinks, then end to end, to a broker and to a recording, in every format."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BROKER))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="flowstream-bench-"))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        lanes = {}
        for name, record_format in itertools.product(("Kafka", "recording"), FORMATS):
            # Each has its own directory and topics: a sample must not wait for another.
            label = f"{name}, {record_format}"
            where = broker.url if name == "Kafka" else f"file:{directory}/{record_format}"
            sink = partial(open_sink, where, partitions=PARTITIONS, record_format=record_format)
            lane = Lane(runner, sink, record_format, IDENTITY, prefix=f"bench-{record_format}")
            lanes[label] = stack.enter_context(lane)
        yield _sinks(lanes)
        yield from _pipelines(lanes)


def _sinks(lanes: dict[str, Lane]) -> Table:
    encoded = {name: _encoded(lane) for name, lane in lanes.items()}
    cases: dict[str, Callable[[], float]] = {
        name: lambda name=name, lane=lane: cpu_us(  # type: ignore[misc]
            lambda: lane.send(encoded[name])
        )
        for name, lane in lanes.items()
    }
    samples = interleave(cases)
    base = samples["recording, msgpack"]
    return Table(
        f"Sinks, {RECORDS:,} encoded records a sample, until acknowledged",
        "µs CPU per record",
        "recording, msgpack",
        [Row(f"sent to {name}", taken, base) for name, taken in samples.items()],
    )


def _encoded(lane: Lane) -> list[MessageBatch]:
    records = flows(RECORDS)
    stamp(records, IDENTITY, 0)
    encoder = new_encoder(lane.format)
    batches = []
    for start in range(0, RECORDS, ENCODE_RECORDS):
        part = records[start : start + ENCODE_RECORDS]
        keys = partition_keys(part)
        batches += split(
            Stream.FLOWS,
            f"{lane.prefix}.{Stream.FLOWS}",
            encoder.encode(part),
            keys,
            partitions(keys, PARTITIONS),
            Tally.of_flows(part),
            time.time_ns() // 1_000_000,
            IDENTITY.agent_epoch,
        )
    return batches


def _pipelines(lanes: dict[str, Lane]) -> Iterator[Table]:
    records = flows(RECORDS)
    elapsed: dict[str, list[float]] = {name: [] for name in lanes}

    def sample(name: str) -> float:
        began = time.perf_counter_ns()
        cost = cpu_us(lambda: lanes[name].publish(records))
        elapsed[name].append((time.perf_counter_ns() - began) / 1000 / RECORDS)
        return cost

    samples = interleave({name: lambda name=name: sample(name) for name in lanes})  # type: ignore[misc]
    base = samples["recording, msgpack"]
    table = Table(
        f"End to end, {RECORDS:,} flows a sample, from batches of records until acknowledged",
        "µs CPU per record",
        "recording, msgpack",
        [
            Row(
                f"published to {name}",
                taken,
                base,
                TARGET_US.get(lanes[name].format) if name.startswith("Kafka") else None,
            )
            for name, taken in samples.items()
        ],
    )
    yield table
    walls = {name: Samples(tuple(values[1:])) for name, values in elapsed.items()}
    base = walls["recording, msgpack"]
    yield Table(
        "The same by the clock on the wall (a broker on this machine has its part in it)",
        "µs per record",
        "recording, msgpack",
        [
            Row(f"published to {name}", taken, base, unit=f"{1e6 / taken.median:,.0f} records/s")
            for name, taken in walls.items()
        ],
    )

"""What a record costs in user space, stage by stage: µs CPU of the process, all threads.

What encoding costs is in ``bench.encoders``.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from support.programs import FlowBench
from support.records import EPOCH, SAMPLER, random_flows

from bench.feed import V4_TCP, run_distinct, run_same
from bench.measure import Row, Table, cpu_us, interleave
from flowstream.accounting.identity import Identity
from flowstream.accounting.tally import Tally
from flowstream.encode import make_encoder, partition_keys, partitions, split, stamp
from flowstream.layouts.constants import EndReason
from flowstream.pipeline.aggregate import aggregate
from flowstream.pipeline.publisher import ENCODE_RECORDS
from flowstream.pipeline.readers import READ_RECORDS
from flowstream.records import decode_many
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

RECORDS: Final = 16_384
DRAINED: Final = 65_536
AGGREGATED: Final = 131_072
OVERFLOWS: Final = 50_000
PARTITIONS: Final = 6
IDENTITY: Final = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})


def flows(count: int) -> NDArray[np.void]:
    """Records of ``count`` flows that differ, of interface 3, not stamped."""
    return random_flows(count)


def measure() -> Iterator[Table]:
    """Each stage by itself, over the classic way of reading a record."""
    with ExitStack() as stack:
        table_bench = stack.enter_context(FlowBench())
        ring_bench = stack.enter_context(FlowBench(max_flows=16))
        run_distinct(ring_bench.program.fd, 0, 1_000)
        records = flows(RECORDS)
        stamp(records, IDENTITY, 0)
        values = {
            name: make_encoder(name, IDENTITY).encode(records) for name in ("msgpack", "json")
        }
        unpack = struct.Struct(_struct_format(records.dtype)).unpack
        cases: dict[str, Callable[[], float]] = {
            "struct.unpack, for comparison": lambda: _all_of(
                lambda: [unpack(value) for value in values["msgpack"]]
            ),
            "table drained into records": lambda: _drained(table_bench),
            "overflow ring read": lambda: _ring_read(ring_bench),
            "stamped": lambda: in_parts(records, lambda part: stamp(part, IDENTITY, 0)),
        }
        many = flows(AGGREGATED)
        cases["aggregated to a tenth, beyond --max-records"] = lambda: _aggregated(many)
        cases["tally, keys, partitions, split"] = lambda: _split(records, values["msgpack"])
        for name, encoded in values.items():
            cases[f"decoded from {name} (a consumer)"] = lambda encoded=encoded: _all_of(  # type: ignore[misc]
                lambda: decode_many(encoded)
            )
        samples = interleave(cases)
    base = next(iter(samples.values()))
    yield Table(
        f"Stages, {RECORDS:,} records a sample",
        "µs CPU per record",
        "struct.unpack of a record",
        [Row(name, taken, base) for name, taken in samples.items()],
    )


def _all_of(work: Callable[[], object]) -> float:
    def run() -> int:
        work()
        return RECORDS

    return cpu_us(run)


def in_parts(records: NDArray[np.void], work: Callable[[NDArray[np.void]], object]) -> float:
    """µs CPU per record of ``work`` on as many records at once as the pipeline has."""

    def run() -> int:
        for start in range(0, len(records), ENCODE_RECORDS):
            work(records[start : start + ENCODE_RECORDS])
        return len(records)

    return cpu_us(run)


def _aggregated(records: NDArray[np.void]) -> float:
    def run() -> int:
        aggregate(records, len(records) // 10)
        return len(records)

    return cpu_us(run)


def _split(records: NDArray[np.void], values: list[bytes]) -> float:
    def run() -> int:
        for start in range(0, len(records), ENCODE_RECORDS):
            part = records[start : start + ENCODE_RECORDS]
            keys = partition_keys(part)
            tally = Tally.of_flows(part)
            to = partitions(keys, PARTITIONS)
            split(Stream.FLOWS, "t", values[start : start + len(part)], keys, to, tally, 0, EPOCH)
        return len(records)

    return cpu_us(run)


def _drained(bench: FlowBench) -> float:
    run_distinct(bench.program.fd, 0, DRAINED)

    def run() -> int:
        return sum(map(len, bench.probe.drain(EndReason.INTERVAL_OVER)))

    return cpu_us(run)


def _ring_read(bench: FlowBench) -> float:
    run_same(bench.program.fd, V4_TCP, OVERFLOWS)

    def run() -> int:
        count = 0
        while taken := len(bench.probe.overflow.read(READ_RECORDS)):
            count += taken
        return count

    return cpu_us(run)


def _struct_format(dtype: np.dtype[np.void]) -> str:
    """How the classic way, a call per record, would read the same octets."""
    codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
    fields = [dtype[name] for name in dtype.names or ()]
    return ">" + "".join(
        f"{field.itemsize}s" if field.subdtype else codes[field.itemsize] for field in fields
    )

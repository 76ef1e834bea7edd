"""Cost of the spool: a record onto the disk and back, by format and compression: µs CPU.

The records are those of a simulated host, as in ``bench.encoders``.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.encoders import new_encoder
from bench.fleet.hosts import Fleet
from bench.measure import Row, Samples, Table, cpu_us
from bench.records import RECORDS
from flowstream.accounting.tally import Tally
from flowstream.compression import CODECS
from flowstream.encode import stamp
from flowstream.messages import MessageBatch
from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORMATS: Final = ("msgpack", "json")
PARTITIONS: Final = 6
BATCH_RECORDS: Final = 700
ROUNDS: Final = 5
APPEND_US, READ_US = 1.0, 1.5
"""Targets for the spool's own compression."""
BASE: Final = "none"
TOPIC: Final = "flowstream.flows"


def measure() -> Iterator[Table]:
    """Each compression, over none."""
    for record_format in FORMATS:
        batches = _batches(record_format)
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CODECS}
        for number, name in itertools.product(range(ROUNDS + 1), CODECS):
            sample = _sample(name, batches)
            if number:
                taken[name].append(sample)
        notes = [f"{name}: {each[0][2]:.1f} octets per record" for name, each in taken.items()]
        title = f"Spool, {record_format}, batches of {BATCH_RECORDS} records"
        yield Table(title, "µs CPU per record", BASE, list(_rows(record_format, taken)), notes)


def _rows(record_format: str, taken: dict[str, list[tuple[float, float, float]]]) -> Iterator[Row]:
    for place, what, target in ((0, "append", APPEND_US), (1, "read", READ_US)):
        samples = {name: Samples(tuple(each[place] for each in taken[name])) for name in taken}
        for name, own in samples.items():
            goal = target if (record_format, name) == ("msgpack", "zstd") else None
            yield Row(f"{what}, {name}", own, samples[BASE], goal)


def _batches(record_format: str) -> list[MessageBatch]:
    fleet = Fleet(hosts=2, flows=RECORDS, intervals=1, seed=7)
    run = next(fleet.runs())
    records = fleet.records(run, 0)
    stamp(records, run.identity, 0)
    batches = []
    for start in range(0, len(records), BATCH_RECORDS):
        part = records[start : start + BATCH_RECORDS]
        values = new_encoder(record_format).encode(part)
        n = len(values)
        keys = [None] * n
        batch = MessageBatch(
            TOPIC, start // BATCH_RECORDS % PARTITIONS, [1_700_000_000_000 + start] * n, keys,
            values, stream=Stream.FLOWS, tally=Tally.of_flows(part),
        )  # fmt: skip
        batches.append(batch)
    return batches


def _sample(compression: str, batches: Sequence[MessageBatch]) -> tuple[float, float, float]:
    """Append and read everything; return µs per record of each, and octets per record."""
    count = sum(map(len, batches))
    with tempfile.TemporaryDirectory(prefix="flowstream-bench-") as directory:
        spool = Spool(Path(directory), retention=Retention(), compression=compression)
        with spool:
            spool.open({TOPIC: PARTITIONS})
            append = cpu_us(lambda: sum(spool.append(each, 1_024)[0] for each in batches))
            octets = spool.octets / count
            read = cpu_us(lambda: _read(spool))
            spool.save()
    return append, read, octets


def _read(spool: Spool) -> int:
    count = 0
    while (spooled := spool.read()) is not None:
        count += len(spooled.batch)
        spool.acknowledge(spooled)
    return count

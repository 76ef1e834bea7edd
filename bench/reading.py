"""Cost of printing the records of a recording: µs CPU of the process, all threads."""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.outcomes import Account

from bench.fleet.hosts import Fleet
from bench.measure import Row, Table, cpu_us, interleave
from flowstream.encode import make_encoder, stamp
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.messages import MessageBatch
from flowstream.reading import Condition, Reader, Selection
from flowstream.reading.formats import open_writer
from flowstream.segments.sink import SegmentSink
from flowstream.top.feeds import SourceFeed
from flowstream.top.model import Model
from flowstream.top.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.reading.rows import Writer

RECORDS: Final = 65_536
BATCH: Final = 1_024
TOPIC: Final = "flowstream.flows"
PER_S: Final = 200_000
WHERE: Final = "dst_port == 443 and packets > 10"


def measure() -> Iterator[Table]:
    """JSON lines and the live table's sums, with and without a condition, over JSON values."""
    with tempfile.TemporaryDirectory() as directory:
        urls = {name: f"{directory}/{name}" for name in ("msgpack", "json")}
        for name, url in urls.items():
            asyncio.run(_record(Path(url), name))
        cases: dict[str, Callable[[], float]] = {
            "json values": lambda: _printed(urls["json"], "json"),
            "msgpack values": lambda: _printed(urls["msgpack"], "json"),
            f"msgpack values, --where '{WHERE}'": lambda: _printed(urls["msgpack"], "json", WHERE),
            "msgpack values, as CSV": lambda: _printed(urls["msgpack"], "csv"),
            "msgpack values, added up by top": lambda: _added(urls["msgpack"]),
            f"msgpack values, by top, --where '{WHERE}'": lambda: _added(urls["msgpack"], WHERE),
            "json values, added up by top": lambda: _added(urls["json"]),
        }
        samples = interleave(cases, rounds=7)
    base = samples["json values"]
    rows = []
    for name, taken in samples.items():
        target = 1e6 / PER_S if name == "msgpack values" else None
        rows.append(Row(name, taken, base, target, unit=f"{1e6 / taken.fastest:,.0f} records/s,"))
    yield Table(
        f"cat and top, {RECORDS:,} records a sample", "µs CPU per record", "JSON values", rows
    )


async def _record(directory: Path, record_format: str) -> None:
    fleet = Fleet(hosts=2, flows=RECORDS, intervals=1, seed=7)
    run = next(fleet.runs())
    records = fleet.records(run, 0)[:RECORDS]
    stamp(records, run.identity, 0)
    values = make_encoder(record_format, run.identity).encode(records)
    sink = SegmentSink(directory, Account(), partitions=1)
    await sink.start([TOPIC])
    for start in range(0, len(values), BATCH):
        part = values[start : start + BATCH]
        await sink.send(MessageBatch(TOPIC, 0, [0] * len(part), [b"12345678"] * len(part), part))
    await sink.flush(60)
    await sink.close(10)


def _printed(url: str, output: str, where: str | None = None) -> float:
    selection = Selection(where=None if where is None else Condition(where))
    reader = Reader(url, [TOPIC], selection)

    def writer() -> Writer:
        return open_writer(output, io.BytesIO(), [TOPIC])

    def run() -> int:
        reader.write_to(writer)
        return RECORDS

    return cpu_us(run)


def _added(url: str, where: str | None = None) -> float:
    """Read and add up as ``flowstream top`` does, with a look at the sums twice a second."""
    model = Model(10.0, whole=True)
    model.select(None if where is None else Condition(where), None)
    feed = SourceFeed(url, "flowstream", DEFAULT_CLIENT, from_start=True, follow=False)
    pump = Pump(feed, model, exact=True)

    def run() -> int:
        pump.start()
        while not pump.ended.wait(0.5):
            model.snapshot()
        pump.raise_error()
        return model.snapshot().state.read

    return cpu_us(run)

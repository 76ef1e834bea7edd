"""What a capture costs, from the file to acknowledged records: µs CPU per packet."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import tempfile
from ctypes import byref, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import uvloop
from packets import captures
from packets.pcap_files import Packet, pcap

from bench.measure import Row, Table, cpu_us, interleave
from flowstream import pcap as flowstream_pcap
from flowstream.config.pcap import CaptureConfig
from flowstream.host.privileges import find_user
from flowstream.kernel import libbpf, structures
from flowstream.kernel.packets import PacketFeed
from flowstream.layouts.flow import CAPTURE_META
from flowstream.pcap.capture_run import CaptureRun, Clock
from flowstream.pcap.identity import measure as measure_captures
from flowstream.pcap.inputs import opened
from flowstream.pcap.reader import CaptureFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.pipeline.publisher import RecordBatch

_Format = Literal["msgpack", "json"]

PACKETS: Final = 200_000
SIZES: Final = {"64 octets": 64, "1,514 octets": 1_514}
ROUNDS: Final = 7
PER_S: Final = 200_000
"""Target, packets per second and core."""
BEGIN_NS: Final = 1_500_000_000_000_000_000
STEP_NS: Final = 500_000
"""Between two packets: a hundred seconds, and every flow again in each interval."""


def measure() -> Iterator[Table]:
    """Small and full-size packets, relative to bare calls of the kernel with such packets."""
    with tempfile.TemporaryDirectory(prefix="flowstream-bench-") as directory:
        for name, size in SIZES.items():
            path = Path(directory, f"{size}.pcap")
            path.write_bytes(_capture(size, PACKETS))
            yield _table(path, name, size)


def _capture(size: int, count: int) -> bytes:
    """Frames of the real captures, cut and filled up to ``size`` octets."""
    real = [frame for path in captures.CAPTURES for frame in captures.frames(path)]
    filled = (frame[:size].ljust(size, b"\0") for frame in itertools.cycle(real))
    frames = itertools.islice(filled, count)
    return pcap(Packet(BEGIN_NS + n * STEP_NS, frame) for n, frame in enumerate(frames))


def _table(path: Path, name: str, size: int) -> Table:
    numbers = itertools.count()

    def published(capture: Path, record_format: _Format) -> int:
        # A directory for each: a recording that is there is read before it is gone on with.
        return _published(capture, f"file:{path.parent}/{size}-{next(numbers)}", record_format)

    single = path.with_name("single.pcap")
    single.write_bytes(_capture(size, 1))
    set_up = interleave({"": lambda: cpu_us(lambda: published(single, "msgpack"))}, ROUNDS)[""]

    def whole(record_format: _Format) -> float:
        return cpu_us(lambda: published(path, record_format)) - set_up.fastest / PACKETS

    samples = interleave(
        {
            "bare calls of the kernel": lambda: _bare(size),
            "read": lambda: cpu_us(lambda: _read(path)),
            "read and named by a digest": lambda: cpu_us(lambda: _named(path)),
            "read and run, records into a void": lambda: _void(path),
            "acknowledged in a recording, msgpack": lambda: whole("msgpack"),
            "acknowledged in a recording, json": lambda: whole("json"),
        },
        ROUNDS,
    )
    base = next(iter(samples.values()))
    rows = []
    for way, taken in samples.items():
        ends = way.startswith("acknowledged")
        unit = f"{1e6 / taken.fastest:,.0f} packets/s per core," if ends else None
        rows.append(Row(way, taken, base, 1e6 / PER_S if ends else None, unit=unit))
    title = f"Captures, {PACKETS:,} packets of {name} a sample"
    notes = [f"a run's set-up comes to it: {set_up.fastest / 1000:.0f} ms CPU"]
    return Table(title, "µs CPU per packet", "bare calls", rows, notes)


def _config(
    path: Path, sink: str = "file:unused", record_format: _Format = "msgpack"
) -> CaptureConfig:
    return CaptureConfig(files=(path,), sink=sink, format=record_format, topic_prefix="bench")


def _bare(size: int) -> float:
    """Run one packet by a system call each time, and nothing else."""
    frame = next(frame for path in captures.CAPTURES for frame in captures.frames(path))
    content = bytes(CAPTURE_META.itemsize) + frame[:size].ljust(size, b"\0")
    data = ctypes.create_string_buffer(content, len(content))
    # struct xdp_md: data, which is the metadata's length, data_end and four more.
    context = (ctypes.c_uint32 * 6)(CAPTURE_META.itemsize, len(data))
    options = structures.TestRunOpts(
        data_in=ctypes.cast(data, c_void_p),
        data_size_in=len(data),
        ctx_in=ctypes.cast(context, c_void_p),
        ctx_size_in=ctypes.sizeof(context),
        repeat=1,
    )
    call, reference = libbpf.library().bpf_prog_test_run_opts, byref(options)
    with PacketFeed() as feed:
        fd = feed.program.fd

        def run() -> int:
            for _ in range(PACKETS):
                options.data_size_out = 0
                if call(fd, reference) < 0:
                    raise RuntimeError("the kernel refuses to run the packet")
            return feed.counters().seen.packets

        return cpu_us(run)


def _read(path: Path) -> int:
    with CaptureFile(path) as file:
        return sum(1 for _ in file.packets())


def _named(path: Path) -> int:
    with opened([path]) as inputs:
        measure_captures(_config(path), inputs)
    return _read(path)


class _Void:
    """Takes a publisher's records and forgets them."""

    def __init__(self) -> None:
        self.records = 0

    async def put(self, batch: RecordBatch) -> None:
        """Count them."""
        self.records += len(batch.records)


def _void(path: Path) -> float:
    void = _Void()
    feed = PacketFeed()
    capture_run = CaptureRun(_config(path), feed, path.stem, 1, Clock(0))

    async def run() -> int:
        with feed, CaptureFile(path) as file:
            await capture_run.run(file.packets(), void, lambda: None)  # type: ignore[arg-type]
        return capture_run.counters().seen.packets

    taken = cpu_us(lambda: asyncio.run(run()))
    if not void.records:
        raise RuntimeError("no record came of the capture")
    return taken


def _published(path: Path, sink: str, record_format: _Format) -> int:
    # Without giving up the privileges, which the next sample needs.
    with flowstream_pcap.prepared(_config(path, sink, record_format), find_user("nobody")) as run:
        done = uvloop.run(flowstream_pcap.publish(run, print))
    if done.failed or not done.stored:
        raise RuntimeError(f"{sink}: {done.failed} of {done.stored} records failed")
    return done.packets

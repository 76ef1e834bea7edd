"""Sends traffic to a device: captures by tcpreplay, floods by tests/tools/gen.c."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scapy.utils import RawPcapWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.net import Interface

TESTS = Path(__file__).parent.parent
GENERATOR_SOURCE = TESTS / "tools" / "gen.c"
CACHE = TESTS.parent / ".cache"

# A veth's queue holds 256 packets: at this rate none is lost, even when the receiving
# CPU is busy for a while.
REPLAY_PPS = 4999
THROUGH_TC = ("-q", "-p", 50_000)
"""Options of a flood that passes the TC hook, as most programs send, and loses no packet."""


@functools.cache
def generator() -> Path:
    """Return the flow generator's binary; compile it when its source has changed."""
    digest = hashlib.sha256(GENERATOR_SOURCE.read_bytes()).hexdigest()[:16]
    binary = CACHE / f"gen-{digest}"
    if not binary.exists():
        CACHE.mkdir(exist_ok=True)
        fresh = CACHE / f"gen-{digest}.{os.getpid()}"
        subprocess.run(["gcc", "-O2", "-o", fresh, GENERATOR_SOURCE], check=True)
        fresh.rename(binary)  # another process may be doing the same
    return binary


def flood(device: Interface, *options: str | float, timeout: float = 120) -> dict[str, Any]:
    """Run the generator on ``device`` (options: see gen.c) and return what it reports.

    The report has ``sent`` and ``err`` (packets the device refused), ``sec`` and ``pps``.
    """
    argv = (str(generator()), "-i", device.name, *map(str, options))
    report: dict[str, Any] = json.loads(device.namespace.run(*argv, timeout=timeout))
    return report


def sent(device: Interface, packets: int, *options: str | float) -> int:
    """Send ``packets`` as the stack sends them; return how many a program for egress saw.

    Those are all of them, whether the device then takes them or not. ``flood`` hands them
    to the driver, which no program sees.
    """
    report = flood(device, "-q", "-n", packets, *options)
    return int(report["sent"]) + int(report["err"])


@contextlib.contextmanager
def load(
    sender: Interface, flows: int, pps: int = 0, port: int = 9, *, through_tc: bool = False
) -> Iterator[None]:
    """Packets of so many flows to a port, without an end; ``pps`` 0: at full rate.

    ``through_tc``: they pass the TC hook of the sender, as those of most programs do.
    """
    argv = [generator(), "-i", sender.name, "-n", 1 << 40, "-f", flows, "-p", pps, "-P", port]
    argv += ["-q"] * through_tc
    with sender.namespace.popen(*map(str, argv)) as process:
        try:
            yield
        finally:
            process.kill()


def replay(device: Interface, capture: Path, pps: int = REPLAY_PPS) -> None:
    """Send the packets of a capture in order; return when the device has taken the last one."""
    device.namespace.run("tcpreplay", "--quiet", f"--pps={pps}", "-i", device.name, capture)


def write_capture(path: Path, packets: Iterable[bytes]) -> Path:
    """Write packets as an Ethernet capture, one millisecond apart, and return its path."""
    with RawPcapWriter(str(path), linktype=1, snaplen=1 << 18) as writer:
        writer.write_header(None)
        for number, packet in enumerate(packets):
            sec, millisecond = divmod(number, 1000)
            writer.write_packet(packet, sec=sec, usec=millisecond * 1000)
    return path


def wait_until(true: Callable[[], bool], timeout: float = 60) -> bool:
    """Poll until it is true, for at most ``timeout`` seconds; return the last result."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True

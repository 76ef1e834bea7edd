"""The command ``python -m bench``: all sections, or those that are named."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Final

from bench import (
    agent,
    attach,
    compression,
    encoders,
    hooks,
    metrics,
    packets,
    pcap,
    publish,
    reading,
    records,
    spool,
    spooling,
    transport,
)
from bench.measure import show
from flowstream import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.measure import Table

SECTIONS: Final[dict[str, Callable[[], Iterable[Table]]]] = {
    "packets": packets.measure,
    "attach": attach.measure,
    "hooks": hooks.measure,
    "records": records.measure,
    "encoders": encoders.measure,
    "reading": reading.measure,
    "publish": publish.measure,
    "compression": compression.measure,
    "transport": transport.measure,
    "spool": spool.measure,
    "spooling": spooling.measure,
    "pcap": pcap.measure,
    "agent": agent.measure,
    "metrics": metrics.measure,
}


def main() -> int:
    """Measure and print; return 1 when even the fastest sample misses a target."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"out of: {', '.join(SECTIONS)}"
    )
    wanted = parser.parse_args().sections or list(SECTIONS)
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(unknown)}; sections are: {', '.join(SECTIONS)}")
    # Sinks log what a measured outage is to them.
    log.configure("error")
    began = time.monotonic()
    print(f"Linux {platform.release()}, Python {platform.python_version()}, {_processor()}")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    missed = [name for section in wanted for table in SECTIONS[section]() for name in show(table)]
    print(f"\n{time.monotonic() - began:.0f} s; load {os.getloadavg()[0]:.1f} at the end")
    for name in missed:
        print(f"target missed: {name}")
    return 1 if missed else 0


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
        names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
        return next(names, platform.machine())


if __name__ == "__main__":
    sys.exit(main())

"""The cost of ``--metrics``: of the option, of a scrape each second, and the time of a scrape."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.net import interface, namespace, veth_pair
from support.scraping import OPENMETRICS, free_port, get
from support.traffic import flood

from bench.agent import Agent
from bench.measure import Row, Samples, Table, interleave
from flowstream.metrics.exposition import FRESH_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.net import Interface, Wire

ROUNDS: Final = 3
SAMPLE_S: Final = 8
FLOWS_PER_S: Final = 50_000
SCRAPES: Final = 15
PAIRS: Final = 32
SCRAPED_OVER: Final = 3.0
"""The most that the option and a scrape each second may add, % of a CPU."""


def measure() -> Iterator[Table]:
    """CPU time of real agents on a veth, idle and under load; scrapes of 1 and 64 attachments."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="flowstream-bench-"))
        Path(directory).chmod(0o755)
        place = stack.enter_context(namespace())
        wire = stack.enter_context(veth_pair(place))
        yield _cost("Idle agent", wire, directory, packets=0)
        yield _cost(f"Agent at {FLOWS_PER_S:,} flows per second", wire, directory, packets=1)
        # Their ends there are not observed: no packet is seen twice.
        there = stack.enter_context(namespace())
        for number in range(PAIRS):
            names = (f"many{number}", f"there{number}")
            stack.enter_context(veth_pair(place, there, names=names))
        yield _scrapes(wire.receiver, interface(place, "many0"), directory)


def _cost(title: str, wire: Wire, directory: str, *, packets: int) -> Table:
    """CPU time without the option, with it, and scraped each second."""
    count = packets * FLOWS_PER_S * SAMPLE_S

    def share(*, on: bool, scraped: bool) -> float:
        port = free_port()
        options = ["--interval", "1", "--format", "msgpack"]
        if on:
            options += ["--metrics", f"127.0.0.1:{port}"]
        with Agent(wire.receiver, f"file:{directory}/recording", *options) as agent:
            agent.wait_for("publishing")
            time.sleep(1)
            end = threading.Event()
            scraping = threading.Thread(target=_scrape_until, args=(port, end))
            if scraped:
                scraping.start()
            before, began = agent.cpu_s(), time.perf_counter()
            if count:
                flood(wire.sender, "-n", count, "-f", FLOWS_PER_S, "-p", FLOWS_PER_S)
            else:
                time.sleep(SAMPLE_S)
            used = (agent.cpu_s() - before) / (time.perf_counter() - began) * 100
            end.set()
            if scraped:
                scraping.join()
            agent.stop()
        return used

    samples = interleave(
        {
            "without --metrics": lambda: share(on=False, scraped=False),
            "with --metrics, not scraped": lambda: share(on=True, scraped=False),
            "with --metrics, scraped each second": lambda: share(on=True, scraped=True),
        },
        ROUNDS,
    )
    base = samples["without --metrics"]
    return Table(
        f"{title}: CPU time, {SAMPLE_S} s, interval 1 s",
        "% of a CPU",
        "without --metrics",
        [
            Row(name, taken, base, None if taken is base else SCRAPED_OVER, over=True)
            for name, taken in samples.items()
        ],
    )


def _scrape_until(port: int, end: threading.Event) -> None:
    while not end.wait(1):
        get(port, "/metrics")


def _scrapes(one: Interface, first: Interface, directory: str) -> Table:
    cases = {
        "1 attachment": (one, ()),
        f"{2 * PAIRS} attachments": (first, ("-i", "many*", "--direction", "both")),
    }
    rows: list[Row] = []
    notes = []
    for name, (observed, more) in cases.items():
        port = free_port()
        options = (*more, "--metrics", f"127.0.0.1:{port}")
        with Agent(observed, f"file:{directory}/recording", *options) as agent:
            agent.wait_for("publishing")
            time.sleep(1)
            before = agent.cpu_s()
            plain, exact, again = (
                _times(port, headers, pause_s)
                for headers, pause_s in (({}, FRESH_S), (OPENMETRICS, FRESH_S), ({}, 0.0))
            )
            used = agent.cpu_s() - before
            octets = len(get(port, "/metrics").body)
            agent.stop()
        base = rows[0].samples if rows else plain
        rows += [
            Row(f"{name}, text format", plain, base),
            Row(f"{name}, OpenMetrics", exact, base),
            Row(f"{name}, the same text again", again, base),
        ]
        notes.append(f"{name}: {octets:,} octets, {used:.2f} s of CPU time in all these scrapes")
    return Table("Time of a scrape", "ms", "1 attachment, text format", rows, notes)


def _times(port: int, headers: Mapping[str, str], pause_s: float) -> Samples:
    taken = []
    for _ in range(SCRAPES):
        time.sleep(pause_s)
        began = time.perf_counter()
        get(port, "/metrics", headers)
        taken.append((time.perf_counter() - began) * 1000)
    return Samples(tuple(taken))

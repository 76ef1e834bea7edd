"""Every example run for real: its sums are the packets that were captured.

``make examples`` runs this with the engines' own Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from broker import Broker
from support import agent, capture

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache"
ENGINES = CACHE / "examples-venv" / "bin"
KAFKA_FOR_SPARK = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0"
TOP = 9
"""More than there are talkers in a window."""


class Published(NamedTuple):
    """Where the records are, all of them twice, and what their sums must be."""

    broker: Broker
    recording: str
    sums: capture.Sums
    windows: set[tuple[int, str, int, int]]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Iterator[Published]:
    directory = tmp_path_factory.mktemp("published")
    file = directory / "captured.pcap"
    sums = capture.write(file)
    recording = f"file:{directory}/recording"
    # A broker's time limit counts from the records' own times.
    with Broker({"log.retention.ms": "-1"}) as broker:
        # A capture gives the same run each time: the second one is all duplicates.
        for sink in (recording, broker.url, broker.url):
            command = [*agent.FLOWSTREAM, "pcap", file, "--sink", sink]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        (interface,) = agent.audited(broker.url)
        assert interface["flows"]["packets"] == capture.PACKETS + 1
        yield Published(broker, recording, sums, windows_of(recording))


def windows_of(url: str) -> set[tuple[int, str, int, int]]:
    """Sums of the agent's records by window and source, without any engine."""
    packets: Counter[tuple[int, str]] = Counter()
    octets: Counter[tuple[int, str]] = Counter()
    for record in agent.records_of(url, "flowstream.flows"):
        window = record.time_flow_end_ns // 10**10 * 10, str(record.source)
        packets[window] += record.packets
        octets[window] += record.bytes
    return {(*window, packets[window], octets[window]) for window in packets}


def run(*command: str | Path, timeout: float = 120, **environment: str) -> list[dict[str, object]]:
    """JSON lines of a program."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "too late" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(lines: list[dict[str, object]], published: Published, *, closed: bool) -> None:
    """The lines are the windows, the largest talker first; the closing one when ``closed``."""
    found = [
        tuple(line[name] for name in ("start", "src_addr", "packets", "bytes")) for line in lines
    ]
    assert len(found) == len(set(found))
    expected = {window for window in published.windows if closed or window[0] < capture.CLOSING_S}
    assert set(found) == expected
    assert found == sorted(found, key=lambda line: (line[0], -line[3], line[1]))
    packets: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for start, source, count, size in found:
        if start < capture.CLOSING_S:
            packets[source] += count
            octets[source] += size
    assert (packets, octets) == published.sums


def test_duckdb(published, tmp_path):
    lines = tmp_path / "flows.jsonl"
    with lines.open("wb") as output:
        for url in (published.recording, published.broker.url):
            command = [sys.executable, HERE / "json_lines.py", url, "flowstream.flows"]
            subprocess.run(command, stdout=output, check=True, timeout=60)
    query = (ENGINES / "python", HERE / "duckdb_top_talkers.py", lines)
    check(run(*query, "--top", str(TOP)), published, closed=True)
    assert len(run(*query, "--top", "1")) == len({start for start, *_ in published.windows})


def test_bytewax(published):
    # As long as the topic spans: the partition with the closing record may be read first.
    lines = run(*bytewax(published), "--wait", "4000")
    assert not any("late" in line for line in lines)
    check(lines, published, closed=True)


def test_bytewax_prints_what_comes_late(published):
    """Partitions are read one after the other: without waiting most records come late."""
    lines = run(*bytewax(published), "--wait", "0")
    assert any("late" in line for line in lines)
    packets: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for line in lines:
        packets[line["src_addr"]] += line["packets"]
        octets[line["src_addr"]] += line["bytes"]
    del packets[capture.CLOSING_SOURCE], octets[capture.CLOSING_SOURCE]
    assert (packets, octets) == published.sums


def bytewax(published: Published) -> list[str | Path]:
    program = HERE / "bytewax_top_talkers.py"
    brokers = published.broker.address
    return [ENGINES / "python", program, "--once", "--brokers", brokers, "--top", str(TOP)]


@pytest.mark.timeout(400)  # the first time it fetches what Spark needs for Kafka
def test_spark(published, tmp_path):
    lines = run(
        *(ENGINES / "spark-submit", "--master", "local[2]", "--packages", KAFKA_FOR_SPARK),
        *("--driver-memory", "1g", "--conf", f"spark.jars.ivy={CACHE / 'ivy'}"),
        *("--conf", "spark.sql.shuffle.partitions=2", "--conf", "spark.ui.enabled=false"),
        *(HERE / "spark_top_talkers.py", "--brokers", published.broker.address),
        *("--checkpoint", tmp_path / "checkpoint", "--top", str(TOP), "--once"),
        timeout=300,
        PYSPARK_PYTHON=str(ENGINES / "python"),
    )
    check(lines, published, closed=False)

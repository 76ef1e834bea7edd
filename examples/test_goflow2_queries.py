"""GoFlow2's own ClickHouse tables and Grafana dashboard, unchanged, over our Protobuf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import agent, capture

from bench.fleet.check import ENGINES
from flowstream.records import FlowRecord, decode
from flowstream.testing.factory import FlowFactory
from flowstream.testing.recorded import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = Path(__file__).parent.parent
PROTOCOLS = {6: "TCP", 17: "UDP"}
PANELS: dict[str, tuple[str, Callable[[FlowRecord], str]]] = {
    "Top source IPs": ("srcip", lambda record: str(record.source)),
    "Top destination IPs": ("dstip", lambda record: str(record.destination)),
    "Top source ports": ("port", lambda record: f"{PROTOCOLS[record.proto]}/{record.src_port}"),
    "Top destination ports": (
        "port",
        lambda record: f"{PROTOCOLS[record.proto]}/{record.dst_port}",
    ),
}
"""Panel of the dashboard: the column of its groups, and the group of a record."""


@pytest.fixture(scope="module")
def goflow2() -> Path:
    """GoFlow2's compose/kcg, of the release that tests/goflow2 names."""
    settings = {"GOTOOLCHAIN": "local", "GOPATH": str(TOP / ".cache" / "go" / "path")}
    command = [Path(sys.executable).parent / "go", "mod", "download", "-json"]
    module = "github.com/netsampler/goflow2/v2"
    done = subprocess.run(
        [*command, module],
        cwd=TOP / "tests" / "goflow2",
        env=os.environ | settings | {"GOFLAGS": "-modcacherw"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return Path(json.loads(done.stdout)["Dir"]) / "compose" / "kcg"


def published(directory: Path) -> list[bytes]:
    """Protobuf of a capture, by the agent, and of some sampled IPv6 flows."""
    file, recording = directory / "captured.pcap", directory / "recording"
    capture.write(file)
    command = [*agent.FLOWSTREAM, "pcap", file, "--format", "protobuf", "--sink"]
    subprocess.run([*command, f"file:{recording}"], check=True, capture_output=True, timeout=60)
    values = [m.value for m in Recording(recording).messages("flowstream.flows")]
    fields = {"src_addr": "2001:db8::1", "dst_addr": "2001:db8::2", "sampling_rate": 7}
    start_ns = capture.START_S * 10**9
    sampled = FlowFactory().batch(
        13, **fields, packets=3, bytes=2**50 + 1, time_flow_start_ns=start_ns
    )
    return values + FlowFactory().values(sampled, "protobuf")


@pytest.fixture(scope="module")
def answers(
    goflow2: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[FlowRecord]]:
    """Rows of every query, and the records that it read."""
    directory = tmp_path_factory.mktemp("values")
    values = published(directory)
    file = directory / "flows.bin"
    file.write_bytes(b"".join(values))
    program = TOP / "tests" / "support" / "goflow2_clickhouse.py"
    done = subprocess.run(
        [ENGINES / "python", program, goflow2, file],
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    records = [record for record in map(decode, values) if isinstance(record, FlowRecord)]
    return json.loads(done.stdout), records


def test_the_dashboard_has_these_queries(answers: tuple[dict[str, Any], Any]) -> None:
    assert answers[0].keys() == {*PANELS, "Instant traffic", "flows_raw", "flows_5m"}


@pytest.mark.parametrize("panel", PANELS)
def test_top_talkers(panel: str, answers: tuple[dict[str, Any], list[FlowRecord]]) -> None:
    found, records = answers
    column, group = PANELS[panel]
    expected: Counter[str] = Counter()
    for record in records:
        expected[group(record)] += record.bytes * record.sampling_rate
    rows = found[panel]
    assert {row[column]: row["sumbytes"] for row in rows} == expected
    sums = [row["sumbytes"] for row in rows]
    assert sums == sorted(sums, reverse=True)


def test_traffic_over_time(answers: tuple[dict[str, Any], list[FlowRecord]]) -> None:
    found, records = answers
    expected: Counter[int] = Counter()
    for record in records:
        minute_ms = record.time_flow_start_ns // 60_000_000_000 * 60_000
        expected[minute_ms] += record.bytes * record.sampling_rate
    # Minutes without traffic are 0.
    sums = {row["t"]: row["sumbytes"] for row in found["Instant traffic"] if row["sumbytes"]}
    assert sums == expected


@pytest.mark.parametrize("table", ["flows_raw", "flows_5m"])
def test_tables(table: str, answers: tuple[dict[str, Any], list[FlowRecord]]) -> None:
    found, records = answers
    (row,) = found[table]
    assert row == {
        "records": len(records),
        "octets": sum(record.bytes for record in records),
        "packets": sum(record.packets for record in records),
    }

"""The definitions in schemas/ for ClickHouse, DuckDB and polars, read by those engines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.fleet.check import ENGINES
from flowstream.records import FlowRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.testing.counters import CountersFactory
from flowstream.testing.factory import FlowFactory
from flowstream.testing.fields import FIRST_NS

READER = Path(__file__).parent.parent / "tests" / "support" / "tables.py"
TABLES = {"clickhouse": "json", "clickhouse-protobuf": "protobuf", "duckdb": "json"}
"""Definition: the format of the values that it reads."""
LOST = 12_044
"""Packets lost by a cause that the first lines of a file do not have."""
HIGHEST = 2**63 - 1
CHAINED = {"netns": "/run/netns/blue", "previous_epoch": 1_699_999_999_000_000_512}
"""Fields of counters of a run that took over a link in another network namespace."""
NUMBERS = {Kind.U8: "UInt8", Kind.U16: "UInt16", Kind.U32: "UInt32", Kind.U64: "UInt64"}


def read(definition: str, values: list[bytes], to: Path) -> list[dict[str, Any]]:
    """Rows that the engine makes of values by a definition."""
    (to / "values").write_bytes(b"\n".join(values) if values[0][:1] == b"{" else b"".join(values))
    done = ended(definition, to)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(definition: str, to: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ENGINES / "python", READER, definition, to / "values"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def flows() -> list[FlowRecord]:
    factory = FlowFactory()
    return [
        factory(),
        factory(src_addr="2001:db8::1", dst_addr="2001:db8::2"),
        # An IPv6 packet with mapped addresses is no IPv4 packet.
        factory(src_addr="::ffff:10.0.0.1", dst_addr="::ffff:10.0.0.2", etype=0x86DD),
        factory(packets=HIGHEST, bytes=HIGHEST, l2_bytes=HIGHEST),
    ]


@pytest.mark.parametrize("name", TABLES)
def test_flows(name: str, tmp_path: Path) -> None:
    records = flows()
    expected = [json.loads(value) for value in FlowFactory().values(records)]
    rows = read(f"flows.{name}.sql", FlowFactory().values(records, TABLES[name]), tmp_path)
    assert len(rows) == len(expected)
    for row, value in zip(rows, expected, strict=True):
        # As text, addresses are those of JSON.
        if name.startswith("clickhouse"):
            for end in ("src", "dst"):
                assert row.pop(f"{end}_ip") == value[f"{end}_addr"]
            assert row.pop("sampler_ip") == value["sampler_address"]
        for field in ("src_addr", "dst_addr", "sampler_address"):
            if row[field] != value[field]:
                assert row[field] == f"::ffff:{value[field]}"
                assert name.startswith("clickhouse")
            del row[field], value[field]
        assert row.pop("community_id") in ("", None)
        assert row == value


@pytest.mark.parametrize("stream", ["new_flows", "counters"])
@pytest.mark.parametrize("name", TABLES)
def test_other_topics(stream: str, name: str, tmp_path: Path) -> None:
    factory = CountersFactory() if stream == "counters" else FlowFactory()
    special = CHAINED if stream == "counters" else {"record_type": 2}
    (value,) = factory.values([record := factory(**special)])
    (row, *_) = read(f"{stream}.{name}.sql", factory.values([record], TABLES[name]), tmp_path)
    for field in ("record_type", "seq", "host_id", "agent_epoch", "host", "if_name", *special):
        assert row[field] == json.loads(value)[field]


@pytest.mark.parametrize("name", [*TABLES, "polars"])
def test_maps_are_whole_whatever_their_keys(name: str, tmp_path: Path) -> None:
    """A cause of a later version, in the last of many lines."""
    factory = CountersFactory()
    records = [factory() for _ in range(20_500)]
    losses = {"overflow_lost": (7, 7, 7 * 60), "shutdown": (2, LOST - 7, LOST * 60)}
    loss = {
        cause: dict(zip(("records", "packets", "l2_bytes"), counts, strict=True))
        for cause, counts in losses.items()
    }
    records.append(factory(losses=loss, time_unix_ns=FIRST_NS + 30_000 * 10**9))
    values = factory.values(records, TABLES.get(name, "json"))
    values[-1] = values[-1].replace(b"shutdown", b"sunspots")
    ending = "py" if name == "polars" else "sql"
    rows = read(f"counters.{name}.{ending}", values, tmp_path)
    if not name.startswith("clickhouse"):
        sums = rows.pop()
        assert sums["explicit"] == LOST
        # What is shown is why the types stand there.
        assert sums["inferred"] == 7
    assert len(rows) == len(records)
    assert rows[-1]["losses"]["sunspots"] == loss["shutdown"]
    assert sum(loss["packets"] for row in rows for loss in row["losses"].values()) == LOST


@pytest.mark.parametrize("name", ["clickhouse", "clickhouse-protobuf", "duckdb"])
def test_other_values_end_the_reading(name: str, tmp_path: Path) -> None:
    factory = FlowFactory()
    other = factory(record_type=2)
    values = factory.values([factory(), other], TABLES[name])
    joined = b"\n".join(values) if name != "clickhouse-protobuf" else b"".join(values)
    (tmp_path / "values").write_bytes(joined)
    done = ended(f"flows.{name}.sql", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    reason = "line 2: not a JSON record" if name == "duckdb" else "flowstream.flows: not a record"
    assert f"{reason} of schema version 1" in done.stderr


def test_clickhouse_reads_messagepack_of_one_version(tmp_path: Path) -> None:
    """As docs/consumers.md says: as one tuple, and nothing that has an element more."""
    factory = FlowFactory()
    (value,) = factory.values([factory(packets=7)], "msgpack")
    names = [field.name for field in fields(FlowRecord)]
    elements = ", ".join(
        f"{field.name} {NUMBERS.get(field.kind, 'String')}" for field in fields(FlowRecord)
    )
    longer = value[:1] + (len(names) + 1).to_bytes(2) + value[3:] + b"\xc0"
    for octets, status, output in ((value, 0, "7\n"), (longer, 1, "")):
        (tmp_path / "values").write_bytes(octets)
        program = (
            "import chdb, sys\n"
            f"table = \"file('{tmp_path}/values', 'MsgPack', 'r Tuple({elements})')\"\n"
            "print(str(chdb.query(f'SELECT r.packets FROM {table}')).strip())\n"
        )
        done = subprocess.run(
            [ENGINES / "python", "-c", program],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (status, output), done.stderr
        assert status == 0 or f"array with size {len(names) + 1} into Tuple" in done.stderr

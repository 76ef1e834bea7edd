"""Every query of docs/cookbook.md, run as it stands there, on records of real traffic."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from broker import Broker
from support.agent import FLOWSTREAM, records_of
from support.engines import ask_engines
from support.site import ANSWERED, CLIENTS, EDGE, PORT, SERVER, Burst, site

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.records import CountersRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parent.parent
TEXT = (TOP / "docs" / "cookbook.md").read_text(encoding="utf-8")
CAPTURES = ("dns-edns-ecs.pcap", "http_09.pcap", "sctp.pcap")
A, B = CLIENTS
# Sent by the first client in two bursts, its answers, by the second one, in the second run, and
# by the host that forwards.
FIRST, SECOND, ANSWERS, OTHER, LATE, OWN = 60, 41, 53, 67, 31, 17
SENT = FIRST + SECOND + OTHER + LATE
IP_UDP = 28
OCTETS = {A: (FIRST + SECOND) * (100 + IP_UDP), B: (OTHER + LATE) * (50 + IP_UDP)}
ANSWERS_OCTETS, OWN_OCTETS = ANSWERS * (200 + IP_UDP), OWN * (30 + IP_UDP)
# Forwarded packets are seen coming in and going out, and by the server.
EVERYTHING = 3 * (SENT + ANSWERS) + 2 * OWN
ONCE = SENT + ANSWERS + OWN
ONCE_OCTETS = OCTETS[A] + OCTETS[B] + ANSWERS_OCTETS + OWN_OCTETS
CLOCK = "SET VARIABLE now_ns = epoch_ns(now());"


def documented() -> Iterator[tuple[str, str, str]]:
    """Engine, name and text of each query."""
    block = re.compile(r"^```(sql|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for language, text in block.findall(TEXT):
        if language == "python":
            (name,) = re.findall(r"^def (\w+)\(file\)", text, re.MULTILINE)
            yield "polars", name, text
        else:
            named = re.match(r"-- (.*) \((DuckDB|ClickHouse)\)\n", text)
            assert named, text
            yield named[2].lower(), f"{named[1]} ({named[2]})", text


class Answered(NamedTuple):
    """Rows by query, and the counters that they were made of."""

    rows: dict[str, list[Any]]
    counters: list[CountersRecord]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    directory = tmp_path_factory.mktemp("cookbook")
    with Broker() as broker, site(broker) as hosts:
        edge, server = (hosts.agent(name, "--interval", 1) for name in ("edge", "server"))
        to, client = (SERVER, PORT), (A, ANSWERED)
        hosts.send(Burst(*client, to, FIRST, 100), Burst(*to, client, ANSWERS, 200))
        hosts.published(3 * (FIRST + ANSWERS))
        hosts.send(
            Burst(*client, to, SECOND, 100),
            Burst(B, 40_002, to, OTHER, 50),
            Burst(EDGE, 42_000, to, OWN, 30),
        )
        hosts.published(EVERYTHING - 3 * LATE)
        edge.stop()
        server.stop()
        # New runs, one with a limit that the announcements of so many flows exceed.
        edge = hosts.agent("edge", "--interval", 1)
        server = hosts.agent("server", "--interval", 5, "--max-records", 1)
        hosts.send(*(Burst(B, 41_000 + n, to, 1, 50) for n in range(LATE)))
        edge.stop()
        hosts.published(EVERYTHING)
        hosts.counted("server", ONCE)
        server.process.kill()
        server.wait()
        hosts.again("flows")
        counters = [
            record
            for record in records_of(hosts.url, "flowstream.counters")
            if isinstance(record, CountersRecord)
        ]
        for stream in ("flows", "counters"):
            hosts.parquet(stream, directory / f"{stream}.parquet")
        command = [*FLOWSTREAM, "cat", hosts.url, "--output", directory / "flows.jsonl"]
        subprocess.run(command, check=True, timeout=60)
    captured(directory)
    return Answered(asked(directory, counters), counters)


def captured(directory: Path) -> None:
    """Write the captures' files, as the document says."""
    files = [TOP / "tests" / "traces" / name for name in CAPTURES]
    recording, parquet = directory / "captures", ("--format", "parquet", "--output")
    for command in (
        ["pcap", *files, "--sink", f"file:{recording}"],
        ["cat", recording, *parquet, directory / "captures.parquet"],
        [
            *("cat", recording, "--topic", "flowstream.new_flows"),
            *(*parquet, directory / "announced.parquet"),
        ],
    ):
        subprocess.run([*FLOWSTREAM, *command], check=True, capture_output=True, timeout=60)


def asked(directory: Path, counters: list[CountersRecord]) -> dict[str, list[Any]]:
    queries = defaultdict(list)
    for engine, name, text in documented():
        queries[engine].append((name, text))
    # The present time is the server's last sign of life, and four of its periods.
    last = max(record.time_unix_ns for record in counters if record.host == "server")
    now_ns = last + 4 * counters[0].counters_period_ns
    queries["duckdb"] = [
        (name, text.replace(CLOCK, f"SET VARIABLE now_ns = {now_ns};"))
        for name, text in queries["duckdb"]
    ]
    silent = "silent hosts (DuckDB)"
    (text,) = (text for name, text in queries["duckdb"] if name == silent)
    early = f"SET VARIABLE now_ns = {last + 2 * counters[0].counters_period_ns};"
    queries["duckdb"] += [("early", early), ("nobody silent yet", text)]
    given = {
        "directory": str(directory),
        "tables": (TOP / "schemas" / "flows.clickhouse.sql").read_text(encoding="utf-8"),
        "lines": str(directory / "flows.jsonl"),
        **queries,
    }
    program = TOP / "tests" / "support" / "cookbook_queries.py"
    found: dict[str, list[Any]] = ask_engines(program, given, 300)
    return found


TOTALS: list[list[Any]] = [
    ["edge", "lan", 0, ANSWERS],
    ["edge", "lan", 1, SENT + OWN],
    ["edge", "wan", 0, SENT],
    ["edge", "wan", 1, ANSWERS],
    ["server", "eth0", 0, SENT + OWN],
    ["server", "eth0", 1, ANSWERS],
]
"""What the agents counted: host, interface, direction, packets."""
EXPECTED: dict[str, list[Any]] = {
    "wrong: every record (DuckDB)": [[2 * EVERYTHING]],
    "each record once (DuckDB)": [[EVERYTHING]],
    "wrong: every record (ClickHouse)": [[2 * EVERYTHING]],
    "each record once (ClickHouse)": [[EVERYTHING]],
    "wrong: all interfaces (DuckDB)": [
        [A, 3 * (FIRST + SECOND), 3 * OCTETS[A]],
        [SERVER, 3 * ANSWERS, 3 * ANSWERS_OCTETS],
        [B, 3 * (OTHER + LATE), 3 * OCTETS[B]],
        [EDGE, 2 * OWN, 2 * OWN_OCTETS],
    ],
    "one interface (DuckDB)": [[A, FIRST + SECOND, OCTETS[A]], [B, OTHER + LATE, OCTETS[B]]],
    "wrong: both directions (DuckDB)": [[2 * (SENT + ANSWERS) + OWN]],
    "each packet of a host once (DuckDB)": [
        [host, ONCE, ONCE_OCTETS] for host in ("edge", "server")
    ],
    "each packet of a host once (ClickHouse)": [["edge", ONCE], ["server", ONCE]],
    "wrong: a join of records (DuckDB)": [[A, ANSWERED, FIRST + SECOND, 2 * ANSWERS]],
    "both directions (DuckDB)": [
        [
            17,
            {"addr": A, "port": ANSWERED},
            {"addr": SERVER, "port": PORT},
            FIRST + SECOND,
            ANSWERS,
        ],
        [17, {"addr": B, "port": 40_002}, {"addr": SERVER, "port": PORT}, OTHER, 0],
        [17, {"addr": EDGE, "port": 42_000}, {"addr": SERVER, "port": PORT}, OWN, 0],
    ],
    "both directions (ClickHouse)": [
        [
            *(17, [f"::ffff:{A}", ANSWERED], [f"::ffff:{SERVER}", PORT]),
            *(FIRST + SECOND, ANSWERS),
        ],
        [17, [f"::ffff:{B}", 40_002], [f"::ffff:{SERVER}", PORT], OTHER, 0],
        [17, [f"::ffff:{EDGE}", 42_000], [f"::ffff:{SERVER}", PORT], OWN, 0],
    ],
    "wrong: differences across runs (DuckDB)": [[6]],
    "totals over restarts (DuckDB)": TOTALS,
    "wrong: agents that ended in order too (DuckDB)": [row[:3] for row in TOTALS],
    "nobody silent yet": [],
    "prefixes of IPv4 (DuckDB)": [
        ["10.1.0.0/24", FIRST + SECOND, OCTETS[A]],
        ["10.1.1.0/24", OTHER + LATE, OCTETS[B]],
    ],
    "prefixes (ClickHouse)": [
        [120, "::ffff:10.1.0.0", FIRST + SECOND, OCTETS[A]],
        [120, "::ffff:10.1.1.0", OTHER + LATE, OCTETS[B]],
    ],
    "prefixes": [["10.1.0.0/24", OCTETS[A]], ["10.1.1.0/24", OCTETS[B]]],
    "wrong: flags of flow records (DuckDB)": [],
    "connections opened, by service (DuckDB)": [["127.0.0.1", 80, 5]],
    "captures (DuckDB)": [
        ["sctp", 74, 66_780, "2005-02-18 08:49:58.686079", "2005-02-18 08:49:58.771526"],
        ["dns-edns-ecs", 89, 35_597, "2016-05-18 08:15:50.492846", "2019-06-18 14:58:36.475993"],
        ["http_09", 50, 2_828, "2022-11-18 12:23:36.062868", "2022-11-18 12:24:03.367628"],
    ],
    "dropped by a watermark of 45 s (DuckDB)": [[74, 213]],
}
"""Rows by the name of the query."""
PLACES = "packets by namespace and interface (DuckDB)"
COMPARED = {"rates (DuckDB)", "rates", "losses (DuckDB)", "silent hosts (DuckDB)", PLACES}
"""Queries whose rows are compared with the records."""
VIEWS = {
    "flows, each once (DuckDB)",
    "counters, each once (DuckDB)",
    "flows of a host, each packet once (DuckDB)",
    "the present time (DuckDB)",
    "early",
}
"""Statements without rows."""


def test_every_query_of_the_document_is_run(answered: Answered) -> None:
    assert answered.rows.keys() == EXPECTED.keys() | COMPARED | VIEWS


@pytest.mark.parametrize("name", EXPECTED)
def test_rows(answered: Answered, name: str) -> None:
    assert answered.rows[name] == EXPECTED[name]


@pytest.mark.parametrize("name", ["rates (DuckDB)", "rates"])
def test_rates(answered: Answered, name: str) -> None:
    """Each from two records in a row, so that times of length sum to the packets in between."""
    rows = answered.rows[name]
    runs: dict[Any, list[CountersRecord]] = defaultdict(list)
    for record in sorted(answered.counters, key=lambda each: each.seq):
        runs[record.agent_epoch, AttachmentKey.of_record(record), record.host].append(record)
    expected = [
        (
            *(after.host, after.if_name, after.flow_direction, after.time_unix_ns),
            pytest.approx(
                (after.seen_packets - before.seen_packets)
                / ((after.time_boot_ns - before.time_boot_ns) / 1e9)
            ),
        )
        for records in runs.values()
        for before, after in pairwise(records)
    ]
    assert [tuple(row[:5]) for row in rows] == sorted(expected, key=lambda row: row[:4])
    assert len(rows) > 10
    assert all(row[4] >= 0 for row in rows)
    assert any(row[4] > 0 for row in rows)


def test_losses(answered: Answered) -> None:
    """Announcements beyond the limit of the server's second run; its counters have their sum."""
    rows = answered.rows["losses (DuckDB)"]
    ingress = [
        each for each in answered.counters if (each.host, each.flow_direction) == ("server", 0)
    ]
    last = max(ingress, key=lambda each: (each.agent_epoch, each.seq))
    lost = last.losses["announcement_limited"].records
    announced = last.stages["new_flows"].acknowledged
    assert (lost + announced, 0 < announced < LATE) == (LATE, True)
    assert {(*row[:3], row[4]) for row in rows} == {("server", "eth0", 0, "announcement_limited")}
    assert (sum(row[5] for row in rows), sum(row[6] for row in rows)) == (lost, 0)


def test_silent_hosts(answered: Answered) -> None:
    """The server's agent was killed; that of the other host ended in order."""
    rows = answered.rows["silent hosts (DuckDB)"]
    assert [row[:3] for row in rows] == [["server", "eth0", 0], ["server", "eth0", 1]]


def test_packets_by_namespace(answered: Answered) -> None:
    places = {record.host: record.netns for record in answered.counters}
    assert answered.rows[PLACES] == [[host, places[host], *rest] for host, *rest in TOTALS]

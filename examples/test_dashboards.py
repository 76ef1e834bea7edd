"""The dashboard of flows: each query in ClickHouse, on the table that the example makes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support import flows_dashboard
from support.agent import flowstream, records_of
from support.dashboards import DASHBOARDS, queries
from support.flows_dashboard import expanded

from flowstream.records import FlowRecord
from flowstream.testing.factory import FlowFactory

if TYPE_CHECKING:
    from support.examples import Published

PANELS = {query.panel["title"]: query for query in queries("flows")}
(HOSTS,) = (each for each in DASHBOARDS["flows"]["templating"]["list"] if each["name"] == "host")
INTERVAL_S = 10
TCP, SYN = 6, 0x02


SCANNER, SCANNED = "198.51.100.7", 7


def scan(time_ns: int) -> list[FlowRecord]:
    """What a host publishes of a scan of its ports; the capture has none."""
    factory = FlowFactory(host="scanned")
    return [
        factory(
            time_received_ns=time_ns, src_addr=SCANNER, proto=TCP, tcp_flags=SYN, dst_port=port
        )
        for port in range(1, SCANNED + 1)
    ]


@pytest.fixture(scope="module")
def records(published: Published) -> list[FlowRecord]:
    found = records_of(published.recording, "flowstream.flows")
    captured = [each for each in found if isinstance(each, FlowRecord)]
    return captured + scan(captured[0].time_received_ns)


@pytest.fixture(scope="module")
def window(records: list[FlowRecord]) -> tuple[int, int]:
    """Seconds between which all records were received."""
    times = [each.time_received_ns // 10**9 for each in records]
    return min(times), max(times) + 1


@pytest.fixture(scope="module")
def answers(
    published: Published,
    records: list[FlowRecord],
    window: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    texts = {title: query.text for title, query in PANELS.items()} | {"hosts": HOSTS["query"]}
    asked = {title: expanded(text, window, INTERVAL_S) for title, text in texts.items()}
    asked |= {
        f"{title} of {name}": expanded(texts[title], window, INTERVAL_S, **variables)
        for title in PANELS
        for name, variables in {
            "sent": {"direction": "1"},
            "an address": {"address": str(records[0].source)},
            "another": {"address": "203.0.113.199"},
        }.items()
    }
    lines = tmp_path_factory.mktemp("clickhouse") / "flows.jsonl"
    captured = flowstream("cat", published.recording, "--topic", "flowstream.flows").stdout
    scanned = FlowFactory(host="scanned").values(records[-SCANNED:])
    lines.write_bytes(captured.encode() + b"\n".join(scanned))
    return flows_dashboard.answers(lines, asked)


def rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    names = [column["name"] for column in answer["meta"]]
    return [dict(zip(names, row, strict=True)) for row in answer["data"]]


@pytest.mark.parametrize("title", PANELS)
def test_panels_have_rows_of_the_kind_that_they_show(answers: dict[str, Any], title: str) -> None:
    answer, panel = answers[title], PANELS[title].panel
    assert answer["data"]
    kinds = [column["type"] for column in answer["meta"]]
    if panel["type"] == "timeseries":
        assert PANELS[title].target["format"] == 0
        assert kinds == ["DateTime('UTC')", "String", "Float64"]
    else:
        assert PANELS[title].target["format"] == 1
    if panel["type"] == "stat":
        assert (len(kinds), len(answer["data"])) == (1, 1)
    names = {column["name"] for column in answer["meta"]}
    shown = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
    shown |= {each["displayName"] for each in panel["options"].get("sortBy", [])}
    assert shown <= names


def test_sums(answers: dict[str, Any], records: list[FlowRecord], window: tuple[int, int]) -> None:
    """Each record counts once, though the topic has it twice."""
    seconds = window[1] - window[0]
    octets = sum(each.l2_bytes for each in records)
    packets = sum(each.packets for each in records)
    assert rows(answers["Traffic"])[0]["traffic"] == pytest.approx(octets * 8 / seconds)
    assert rows(answers["Packets"])[0]["packets"] == pytest.approx(packets / seconds)
    assert int(rows(answers["Flow records"])[0]["records"]) == len(records)
    for title in ("Traffic by protocol", "Traffic by host and interface"):
        shown = sum(row["value"] for row in rows(answers[title])) * INTERVAL_S
        assert shown == pytest.approx(octets * 8)
    assert sum(int(row["records"]) for row in rows(answers["Sizes of flow records"])) == len(
        records
    )
    scanned, captured = sorted(rows(answers["Hosts"]), key=lambda row: int(row["Records"]))
    assert (scanned["Host"], int(scanned["Records"])) == ("scanned", SCANNED)
    assert int(scanned["Packets"]) + int(captured["Packets"]) == packets


def test_talkers(answers: dict[str, Any], records: list[FlowRecord]) -> None:
    octets: Counter[str] = Counter()
    for each in records:
        octets[str(each.source)] += each.bytes
    found = [int(row["Octets"]) for row in rows(answers["Top talkers"])]
    assert found == sorted(octets.values(), reverse=True)[:20]
    assert all(octets[row["Source"]] == int(row["Octets"]) for row in rows(answers["Top talkers"]))


def test_unanswered_connections(answers: dict[str, Any]) -> None:
    (row,) = rows(answers["Unanswered connections"])
    found = row["Source"], *(int(row[name]) for name in ("Destinations", "Ports", "Records"))
    assert found == (SCANNER, 1, SCANNED, SCANNED)


def test_choices(answers: dict[str, Any], records: list[FlowRecord]) -> None:
    assert {row["host"] for row in rows(answers["hosts"])} > {"scanned"}
    assert rows(answers["Hosts of sent"]) == []
    assert rows(answers["Top talkers of another"]) == []
    mine = str(records[0].source)
    for row in rows(answers["Top conversations of an address"]):
        assert mine in (row["Source"], row["Destination"])

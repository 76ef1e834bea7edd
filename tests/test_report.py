"""flowstream report: its numbers, its page, and what records could do to it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import pytest
from support.agent import Agent, delivered, on
from support.many_flows import record_many
from support.memory import measured
from support.outcomes import Account
from support.published import EGRESS, HOST, INGRESS, Published, publish
from support.report_page import Page, opened
from support.traffic import sent

from flowstream.audit import audit
from flowstream.audit.equation import summed
from flowstream.cli.main import main
from flowstream.messages import MessageBatch
from flowstream.segments.sink import SegmentSink
from flowstream.streams import Stream
from flowstream.testing import CountersFactory, FlowFactory

if TYPE_CHECKING:
    from pathlib import Path

    from flowstream.messages import Message
    from flowstream.records import FlowRecord

FORMATS = ["json", "msgpack", "protobuf", "avro"]
S = 10**9
BEGIN_NS = 1_700_000_000 * S


class Recorded:
    """A recording made by hand: a run of one host, whose counters account for its records."""

    def __init__(
        self,
        host: str = "edge",
        if_names: tuple[str, ...] = ("eth0", "wan"),
        host_id: bytes = HOST,
    ) -> None:
        self.host_id = host_id
        self.flows, self.counters = FlowFactory(host), CountersFactory(host)
        self.if_names = if_names
        self.records: list[FlowRecord] = []
        self.again: list[FlowRecord] = []
        """Records that were published twice."""
        self.final = True
        self.more: dict[str, Any] = {}
        """Other fields of the counters."""

    def flow(self, if_index: int, direction: int, **fields: Any) -> FlowRecord:
        """Add a record of eth0 (2) or wan (3)."""
        record = self.flows(
            if_index=if_index,
            if_name=self.if_names[if_index - 2],
            flow_direction=direction,
            host_id=self.host_id,
            **fields,
        )
        self.records.append(record)
        return record

    def messages(self, record_format: str = "msgpack") -> list[Message]:
        """What the run publishes."""
        places = sorted({(each.if_index, each.flow_direction) for each in self.records})
        counters = [
            self.counters(
                [each for each in self.records if (each.if_index, each.flow_direction) == place],
                final=self.final,
                host_id=self.host_id,
                **self.more,
            )
            for place in places
        ]
        new = [each for each in self.records if each.is_new_flow]
        old = [each for each in self.records if not each.is_new_flow]
        return [
            *self.flows.messages([*old, *self.again], record_format),
            *self.flows.messages(new, record_format, topic="flowstream.new_flows"),
            *self.counters.messages(counters, record_format),
        ]

    def write(self, directory: Path, record_format: str = "msgpack") -> Path:
        """Write a recording of this run alone."""
        asyncio.run(_write(directory, self.messages(record_format)))
        return directory


async def _write(directory: Path, messages: list[Message]) -> None:
    sink = SegmentSink(directory, Account(), partitions=6)
    await sink.start([f"flowstream.{stream}" for stream in Stream])
    for message in messages:
        await sink.send(MessageBatch.copy_of([message]))
    await sink.flush(60)
    await sink.close(5)


def edge() -> Recorded:
    """A host that forwards between eth0 and wan, asks a server itself, and sees pings.

    Octets are those of frames.
    """
    recorded = Recorded()
    client, server = {"src_addr": "10.0.0.1"}, {"dst_addr": "192.0.2.9"}
    for if_index, direction in ((2, INGRESS), (3, EGRESS)):
        recorded.flow(
            if_index,
            direction,
            **client,
            **server,
            packets=17,
            l2_bytes=10_007,
            time_flow_start_ns=BEGIN_NS,
            time_flow_end_ns=BEGIN_NS + 10 * S,
        )
        recorded.flow(
            if_index,
            direction,
            **client,
            **server,
            packets=2,
            l2_bytes=131,
            record_type=1,
            time_flow_start_ns=BEGIN_NS + 10 * S,
            time_flow_end_ns=BEGIN_NS + 15 * S,
        )
        recorded.flow(if_index, direction, **client, **server, record_type=2)
    for if_index, direction in ((3, INGRESS), (2, EGRESS)):
        recorded.flow(
            if_index,
            direction,
            src_addr="192.0.2.9",
            dst_addr="10.0.0.1",
            src_port=443,
            dst_port=49_152,
            packets=13,
            l2_bytes=5_003,
            time_flow_start_ns=BEGIN_NS + S,
            time_flow_end_ns=BEGIN_NS + 2 * S,
        )
    recorded.flow(
        3,
        EGRESS,
        src_addr="192.0.2.1",
        dst_addr="192.0.2.53",
        proto=17,
        dst_port=53,
        packets=1,
        l2_bytes=83,
        time_flow_start_ns=BEGIN_NS + 20 * S,
    )
    recorded.flow(
        2,
        INGRESS,
        src_addr="2001:db8::7",
        dst_addr="2001:db8::1",
        proto=58,
        src_port=0,
        dst_port=0,
        icmp_type=128,
        packets=3,
        l2_bytes=307,
        time_flow_start_ns=BEGIN_NS + 30 * S,
        time_flow_end_ns=BEGIN_NS + 32 * S,
    )
    recorded.more = {
        "no_flow": {"non_ip": {"packets": 5, "l2_bytes": 211}},
        "losses": {"overflow_lost": {"records": 1, "packets": 7, "l2_bytes": 701}},
    }
    return recorded


def made(recording: Path | str, output: Path, *options: str, status: int = 0) -> Page:
    assert main(["report", str(recording), "-o", str(output), *options]) == status
    return Page(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=FORMATS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    directory = tmp_path_factory.mktemp(request.param)
    return made(edge().write(directory / "run", request.param), directory / "page.html")


def test_each_packet_of_a_conversation_counts_once(page):
    assert page.table("Top talkers of 6") == {
        "1. 10.0.0.1": ["10.1 kB", "5 kB", "32", "48.7 %"],
        "2. 192.0.2.9": ["5 kB", "10.1 kB", "32", "48.7 %"],
        "3. 2001:db8::1": ["0 B", "307 B", "3", "1.0 %"],
        "4. 2001:db8::7": ["307 B", "0 B", "3", "1.0 %"],
        "5. 192.0.2.1": ["83 B", "0 B", "1", "0.3 %"],
        "6. 192.0.2.53": ["0 B", "83 B", "1", "0.3 %"],
    }
    assert page.table("Top conversations of 3") == {
        "1. 10.0.0.1 ↔ 192.0.2.9": ["10.1 kB", "5 kB", "32", "97.5 %"],
        "2. 2001:db8::1 ↔ 2001:db8::7": ["0 B", "307 B", "3", "2.0 %"],
        "3. 192.0.2.1 ↔ 192.0.2.53": ["83 B", "0 B", "1", "0.5 %"],
    }


def test_of_two_hosts_on_the_way_the_one_that_saw_more_counts(tmp_path):
    one, other = Recorded("one"), Recorded("other", host_id=bytes(16))
    one.flow(2, INGRESS, packets=17, l2_bytes=10_007)
    one.flow(2, INGRESS, packets=2, l2_bytes=131)
    other.flow(2, INGRESS, packets=15, l2_bytes=9_001)
    other.flow(2, EGRESS, packets=15, l2_bytes=9_001)
    asyncio.run(_write(tmp_path / "run", [*one.messages(), *other.messages()]))
    page = made(tmp_path / "run", tmp_path / "page.html")
    assert page.table("Top talkers") == {
        "1. 10.0.0.1": ["10.1 kB", "0 B", "19", "50.0 %"],
        "2. 10.0.0.2": ["0 B", "10.1 kB", "19", "50.0 %"],
    }
    assert page.table("Ingress by protocol")["TCP"][0] == "19.1 kB"
    assert "A packet that passes several of these hosts counts at each." in page.text
    assert "Every packet is accounted for." in page.text


def test_services_and_protocols_are_told_by_direction(page):
    assert page.table("Services") == {
        "1. TCP 443 (https)": ["15.1 kB", "15.1 kB", "4", "98.7 %"],
        "2. ICMPv6": ["307 B", "0 B", "1", "1.0 %"],
        "3. UDP 53 (domain)": ["0 B", "83 B", "1", "0.3 %"],
    }
    assert [row[0] for row in page.table("Ingress by protocol").values()] == ["15.1 kB", "307 B"]
    assert list(page.table("Egress by protocol")) == ["TCP", "UDP"]
    assert "What eth0 of edge, wan of edge received." in page.text
    assert "What eth0 of edge, wan of edge sent." in page.text


def test_octets_are_spread_over_the_time_of_their_record(page):
    figure = page.figures["plot-time-ingress"]
    tcp, icmp = figure["data"]
    assert (tcp["name"], icmp["name"]) == ("TCP", "ICMPv6")
    begin_ms = BEGIN_NS // 10**6
    step_ms = tcp["x"][1] - tcp["x"][0]
    assert (tcp["x"][0], step_ms) == (begin_ms, 100)
    at = dict(zip(tcp["x"], tcp["y"], strict=True))
    forth, back = 10_007 * 8 / 10, 5_003 * 8
    assert at[begin_ms] == pytest.approx(forth, abs=0.1)
    assert at[begin_ms + 1_500] == pytest.approx(forth + back, abs=0.1)
    assert at[begin_ms + 12_000] == pytest.approx(131 * 8 / 5, abs=0.1)
    assert at[begin_ms + 16_000] == 0
    octets = sum(tcp["y"][:-1]) * step_ms / 8_000
    assert octets == pytest.approx(10_007 + 131 + 5_003, rel=1e-3)
    assert sum(icmp["y"][:-1]) * step_ms / 8_000 == pytest.approx(307, rel=1e-2)


def test_flows_are_whole_in_sizes_and_durations(page):
    """Two records of one flow are one flow: 10,138 octets in 15 s."""
    assert page.table("Sizes of flows") == {
        "50 B": ["0", "1"],
        "100 B": ["0", "0"],
        "200 B": ["1", "0"],
        "500 B": ["0", "0"],
        "1 kB": ["0", "0"],
        "2 kB": ["0", "0"],
        "5 kB": ["1", "1"],
        "10 kB": ["1", "1"],
    }
    durations = page.table("Durations of flows")
    used = {name: counts for name, counts in durations.items() if counts != ["0", "0"]}
    assert used == {
        "0 s": ["0", "1"],
        "1 s": ["1", "1"],
        "2 s": ["1", "0"],
        "10 s": ["1", "1"],
    }
    announced = page.table("Announcements")
    assert {name: row[0] for name, row in announced.items()} == {"ingress": "1", "egress": "1"}


def test_the_equation_is_that_of_the_audit(tmp_path):
    recorded = edge()
    # A redelivery, which counts once.
    recorded.again = [recorded.records[0]] * 2
    recording = recorded.write(tmp_path / "run")
    page = made(recording, tmp_path / "page.html")
    result = asyncio.run(audit(str(recording)))
    assert result.holds
    sums = summed(each for run in result.runs for each in run.interfaces)
    rows = page.table("Packets and octets of frames by term")
    assert rows == {
        term: [f"{sums[term].packets:,}", f"{sums[term].l2_bytes:,}"]
        for term in (
            "seen",
            "no flow: non_ip",
            "in published flows",
            "lost: overflow_lost",
            "difference",
        )
    }
    (bars,) = page.figures["plot-equation"]["data"]
    assert bars["y"] == list(rows)
    assert bars["measure"] == ["absolute", *["relative"] * 3, "total"]
    assert sum(bars["x"][:-1]) == bars["x"][-1] == 0
    assert "Every packet is accounted for." in page.text
    assert "Flow records8" in page.text
    assert page.table("Top talkers")["1. 10.0.0.1"][0] == "10.1 kB"


def test_the_plots_are_plotlys(page):
    assert page.figures.keys() == {
        f"plot-{name}"
        for name in (
            "time-ingress",
            "time-egress",
            "talkers",
            "conversations",
            "services",
            "sizes",
            "durations",
            "new-flows",
            "equation",
        )
    }
    for name, figure in page.figures.items():
        # It refuses what plotly.js does not know.
        go.Figure(figure)
        assert ("div", name) in [(tag, names.get("id")) for tag, names in page.elements]


def test_sampled_records_are_estimates_and_say_so(tmp_path):
    recorded = Recorded()
    recorded.flow(2, INGRESS, packets=3, l2_bytes=1_009, sampling_rate=100)
    recorded.more = {"no_flow": {"sampled_out": {"packets": 307, "l2_bytes": 100_003}}}
    page = made(recorded.write(tmp_path / "run"), tmp_path / "page.html")
    assert page.table("Top talkers")["1. 10.0.0.1"] == ["101 kB", "0 B", "300", "50.0 %"]
    assert "Sampled: 1 packet in 100 was looked at. Traffic is an estimate" in page.text
    assert page.table("Packets and octets of frames")["in published flows"] == ["3", "1,009"]


def test_aggregated_records_are_networks_and_no_flows(tmp_path):
    recorded = Recorded()
    recorded.flow(2, INGRESS, packets=3, l2_bytes=1_009)
    recorded.flow(
        2, INGRESS, src_addr="10.0.7.0", src_net=24, flow_count=23, packets=31, l2_bytes=9_001
    )
    page = made(recorded.write(tmp_path / "run"), tmp_path / "page.html")
    assert page.table("Top talkers")["2. 10.0.7.0/24"] == ["9 kB", "0 B", "31", "45.0 %"]
    assert page.table("Sizes of flows") == {"1 kB": ["1"]}
    assert "23 flows that the agent aggregated (--max-records) left out." in page.text


def test_times_and_a_condition_select_the_traffic_and_not_the_equation(tmp_path):
    recording = edge().write(tmp_path / "run")
    page = made(
        recording, tmp_path / "page.html", "--where", 'if_name == "wan" and proto == "tcp"'
    )
    assert page.table("Services") == {"1. TCP 443 (https)": ["5 kB", "10.1 kB", "2", "100.0 %"]}
    assert '--where if_name == "wan" and proto == "tcp"; loss equation' in page.text
    whole = made(recording, tmp_path / "whole.html")
    assert page.table("Packets and octets") == whole.table("Packets and octets")
    until = f"{BEGIN_NS // S + 12}"
    page = made(recording, tmp_path / "page.html", "--until", until)
    assert page.table("Top talkers")["1. 10.0.0.1"][:2] == ["10 kB", "5 kB"]
    page = made(recording, tmp_path / "page.html", "--since", until)
    assert page.table("Top talkers")["1. 2001:db8::1"][1] == "307 B"


def test_how_runs_ended(tmp_path):
    epoch = 1_700_000_000_000_000_000 // 1_024 * 1_024
    older, last, other = (
        Published("msgpack", epoch=epoch + n * 10 * S * 1_024 // 1_000, host_id=host_id)
        for n, host_id in enumerate([HOST, HOST, bytes(16)])
    )
    for published in (older, other):
        published.counters.pop()
    for published, at_s in ((older, 3), (last, 40), (other, 41)):
        for number in range(len(published.counters)):
            published.change_counters(number, time_unix_ns=epoch + at_s * S)
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", older, last, other))
    page = made(tmp_path / "run", tmp_path / "page.html")
    ((_, *rows),) = (rows for caption, rows in page.tables.items() if caption == "Runs")
    assert [row[3] for row in rows] == [
        "no final counters, and a later run: killed",
        "complete: final counters",
        "no final counters: still running when it was read, or killed",
    ]
    assert [row[4] for row in rows] == ["no", "yes", "no"]
    assert "Not every packet is accounted for." in page.text
    for published in (other,):
        published.change_counters(0, time_unix_ns=epoch + 36 * S)
    asyncio.run(publish(f"file:{tmp_path}/silent", "msgpack", last, other))
    page = made(tmp_path / "silent", tmp_path / "page.html")
    ((_, *rows),) = (rows for caption, rows in page.tables.items() if caption == "Runs")
    assert rows[1][3] == "no final counters, and silent before the end: killed, or cut off"


HOSTILE_HOST = "<script>alert(1)</script><b>&amp;\u202e"
HOSTILE_NAME = "<a href=x>\"'"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about names out of records that would be markup."""
    directory = tmp_path_factory.mktemp("hostile")
    recorded = Recorded(HOSTILE_HOST, (HOSTILE_NAME, "wan"))
    recorded.flow(2, INGRESS, packets=3, l2_bytes=1_009, time_flow_end_ns=BEGIN_NS + 90_000 * S)
    recorded.final = False
    made(recorded.write(directory / "run", "json"), directory / "page.html")
    return directory / "page.html"


def test_texts_of_records_are_no_markup(hostile):
    page = Page(hostile.read_text(encoding="utf-8"))
    names = [name for name, _ in page.elements]
    assert names.count("script") == 3
    assert "b" not in names
    assert {attributes["href"] for name, attributes in page.elements if name == "a"} == {
        f"#{name}"
        for name in (
            "time-ingress",
            "talkers",
            "conversations",
            "services",
            "sizes",
            "durations",
            "new-flows",
            "equation",
            "runs",
        )
    }
    assert "Flow report of <script>alert(1)</script><b>&amp;\\u202e" in page.text
    assert f"What {HOSTILE_NAME} of <script>" in page.text
    assert "<" not in json.dumps(page.figures).replace("<extra></extra>", "")


def test_names_as_long_as_a_message_are_cut(tmp_path):
    recorded = Recorded("h" * 100_003)
    recorded.flow(2, INGRESS)
    page = made(recorded.write(tmp_path / "run"), tmp_path / "page.html")
    assert "Flow report of " + 485 * "h" + "…" in page.text
    assert 501 * "h" not in page.html


def test_the_page_permits_no_network_and_refers_to_nothing(hostile):
    page = Page(hostile.read_text(encoding="utf-8"))
    (policy,) = (
        attributes["content"] or ""
        for name, attributes in page.elements
        if name == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("script-src").count("'sha256-") == 2
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [each for each in page.elements if {"src", "action"} & each[1].keys()]
    assert "link" not in {name for name, _ in page.elements}


@pytest.mark.parametrize(("dark", "width"), [(False, 1_400), (True, 420)])
def test_a_browser_draws_every_plot_without_an_error(hostile, tmp_path, dark, width):
    document, messages = opened(hostile, tmp_path / "profile", dark=dark, width=width)
    assert messages == ""
    plots = re.findall(r'id="plot-[\w-]+" class="plot js-plotly-plot"', document)
    assert len(plots) == 7
    assert "rgb(20, 23, 27)" in document if dark else "rgb(20, 23, 27)" not in document
    assert "<script>alert" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path, capsys):
    recording, output = edge().write(tmp_path / "run"), tmp_path / "page.html"
    output.write_text("before")
    output.chmod(0o640)
    link = tmp_path / "link.html"
    link.symlink_to(output)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", str(empty), "-o", str(link)]) == 1
    assert output.read_text() == "before"
    made(recording, link)
    assert link.is_symlink()
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert {each.name for each in tmp_path.iterdir()} == {"run", "page.html", "link.html", "empty"}
    new = tmp_path / "new.html"
    mask = os.umask(0o027)
    try:
        made(recording, new)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    capsys.readouterr()


def test_the_page_may_go_to_standard_output(tmp_path, capfdbinary):
    recording = edge().write(tmp_path / "run")
    assert main(["report", str(recording), "-o", "-"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["-o", "none/page.html"], 1, "none/page.html: No such file or directory; use a file"),
        (["-o", "run"], 1, "run: it is a directory; use a file that can be written"),
        ([], 2, "the following arguments are required: -o/--output"),
        (
            ["-o", "p.html", "--topic-prefix", "other"],
            1,
            "no topic other.flows, other.new_flows, other.counters in this recording; its topics",
        ),
        (["-o", "p.html", "--where", "dst_prt == 443"], 2, "did you mean dst_port?"),
        (
            ["-o", "p.html", "--where", "dst_port == 7"],
            1,
            "run: none of its flow records matches --where dst_port == 7",
        ),
    ],
)
def test_errors_name_the_thing(tmp_path, monkeypatch, capsys, options, status, says):
    edge().write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "run", *options]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowstream: error: ")
    assert says in line
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_recording_without_counters_or_records_is_an_error(tmp_path, capsys):
    recording = edge().write(tmp_path / "run")
    for partition in recording.glob("flowstream.counters-*"):
        partition.rename(tmp_path / partition.name)
    output = str(tmp_path / "page.html")
    assert main(["report", str(recording), "-o", output]) == 1
    assert "no topic flowstream.counters in this recording; its topics" in capsys.readouterr().err
    asyncio.run(_write(tmp_path / "empty", []))
    assert main(["report", str(tmp_path / "empty"), "-o", output]) == 1
    assert "no records in flowstream.flows, flowstream.new_flows" in capsys.readouterr().err


def test_memory_does_not_grow_with_records_and_flows(tmp_path):
    peaks = []
    for count in (100_000, 1_000_000):
        record_many(tmp_path / f"{count}", count, flows=count)
        output = tmp_path / f"{count}.html"
        done = measured(
            ["report", str(tmp_path / f"{count}"), "-o", str(output)], tmp_path / "log"
        )
        assert (done.status, done.text) == (0, "")
        assert f"Flow records</dt><dd>{count:,}</dd>" in output.read_text(encoding="utf-8")
        peaks.append(done.peak)
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_the_report_of_an_agent_in_a_cluster_is_that_of_the_audit(wire, broker, tmp_path):
    sender, receiver = wire
    options = ("--sink", broker.url, "--topic-prefix", "reported", "--direction", "both")
    with Agent(*on(receiver), *options, "--format", "msgpack") as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, 5_003, "-f", 101, "-l", 83)
        left = sent(receiver, 3_001, "-f", 101, "-l", 83)
        running = made(broker.url, tmp_path / "page.html", "--topic-prefix", "reported")
        agent.stop()
    page = made(broker.url, tmp_path / "page.html", "--topic-prefix", "reported")
    result = asyncio.run(audit(broker.url, "reported"))
    assert result.holds
    ((_, *rows),) = (
        rows for caption, rows in page.tables.items() if caption.startswith("Interfaces and")
    )
    assert [[row[2].partition(" (netns")[0], *row[3:5]] for row in rows] == [
        [f"{receiver.name} ingress", f"{arrived:,}", f"{arrived:,}"],
        [f"{receiver.name} egress", f"{left:,}", f"{left:,}"],
    ]
    sums = summed(each for run in result.runs for each in run.interfaces)
    equation = page.table("Packets and octets of frames")
    assert equation["seen"] == [f"{arrived + left:,}", f"{sums['seen'].l2_bytes:,}"]
    assert equation["difference"] == ["0", "0"]
    assert sum(int(row[2].replace(",", "")) for row in page.table("Services").values()) == 202
    for text, ended in ((running.text, "no final counters"), (page.text, "complete: final")):
        assert ended in text

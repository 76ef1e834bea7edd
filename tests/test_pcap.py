"""Captures through the kernel program: the reference's flows, the same every time."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from packets import captures, reference
from packets.pcap_files import Packet, enhanced, interface, pcap, pcapng, section
from support.pcap_runs import BEGIN_NS, RAISED, SECOND_NS, Runner, frame, in_child, packets

from flowstream.cli.main import main
from flowstream.host.privileges import find_user
from flowstream.kernel.packets import PacketFeed
from flowstream.pcap.reader import CaptureFile
from flowstream.records import CountersRecord
from flowstream.segments.sink import SegmentSink
from flowstream.testing.recorded import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.registry import Registry

NOBODY = find_user("nobody")
README = (captures.TRACES / "README.md").read_text(encoding="utf-8")
COUNTS = {
    name: (int(packets), int(flows))
    for name, packets, flows in re.findall(
        r"^\| (\S+\.pcap) \| (\d+) \| (\d+) ", README, re.MULTILINE
    )
}
GOLDEN_HOST_ID = "bb7b27eb0a99dea3e338aa8584daaffc"
"""Of http_09.pcap with the default options."""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


@pytest.mark.parametrize("capture", captures.CAPTURES, ids=lambda path: path.stem)
def test_capture_gives_the_flows_of_the_reference(run: Runner, capture: Path) -> None:
    done = run(capture, options=["--interval", "3600"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), done.refused()) == reference.flows(captures.frames(capture))
    assert (done.counters[0].seen_packets, len(done.sums())) == COUNTS[capture.name]
    assert {(flow.if_index, flow.if_name) for flow in done.flows} == {(1, capture.stem[:15])}


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
@pytest.mark.parametrize("name", ["dns-edns-ecs.pcap", "mapi.pcap"])
def test_same_capture_gives_the_same_messages(run: Runner, name: str, record_format: str) -> None:
    path = captures.TRACES / name
    copy = run.file(path.read_bytes(), "copy.pcap")
    first, second = (
        run(path, copy, options=["--format", record_format, "--interval", "1"]) for _ in range(2)
    )
    assert first.recording.messages() == second.recording.messages()
    assert len(first.recording.messages()) > 50
    assert {flow.if_index for flow in first.flows} == {1, 2}


def test_times_are_the_captures(run: Runner) -> None:
    made = [
        Packet(BEGIN_NS + n, frame()) for n in (0, 1, 4_999_999_999, 5_000_000_000, 5 * 10**12)
    ]
    done = run(pcap(made, nanoseconds=True))
    spans = [(f.packets, f.time_flow_start_ns, f.time_flow_end_ns) for f in done.flows]
    assert [(n, a - BEGIN_NS, b - BEGIN_NS) for n, a, b in spans] == [
        (3, 0, 4_999_999_999),
        (1, 5_000_000_000, 5_000_000_000),
        (1, 5 * 10**12, 5 * 10**12),
    ]
    assert {flow.agent_epoch for flow in done.flows} == {BEGIN_NS}
    assert [flow.end_reason for flow in done.flows] == [2, 2, 4]


def test_interval_is_kept_whatever_the_order_of_time(run: Runner) -> None:
    at = (100, 101, 3600, 102, 104, 106, 2, 3, 94, 95, 99, 100, 3601)
    made = [Packet(BEGIN_NS + n * SECOND_NS, frame()) for n in at]
    done = run(pcap(made), options=["--interval", "5"])
    assert (done.status, done.error) == (0, "")
    spans = [
        (
            flow.packets,
            (flow.time_flow_start_ns - BEGIN_NS) // SECOND_NS,
            (flow.time_flow_end_ns - BEGIN_NS) // SECOND_NS,
            flow.end_reason,
        )
        for flow in sorted(done.flows, key=lambda flow: flow.seq)
    ]
    # From the first packet on in steps of the interval, in both directions.
    assert spans == [
        (2, 100, 101, 2),
        (1, 3600, 3600, 2),
        (2, 102, 104, 2),
        (1, 106, 106, 2),
        (2, 2, 3, 2),
        (1, 94, 94, 2),
        (2, 95, 99, 2),
        (1, 100, 100, 2),
        (1, 3601, 3601, 4),
    ]
    again = run(pcap(made), options=["--interval", "5"])
    assert done.recording.messages() == again.recording.messages()


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_time_gives_the_same_sums(run: Runner, seed: int) -> None:
    made = [Packet(BEGIN_NS + n * SECOND_NS // 7, frame(n % 5, n % 11)) for n in range(1_009)]
    random.Random(seed).shuffle(made)
    first, second = (run(pcapng(made), options=["--interval", "1"]) for _ in range(2))
    assert (first.sums(), {}) == reference.flows([packet.frame for packet in made])
    assert first.recording.messages() == second.recording.messages()
    for flow in first.flows:
        assert flow.time_flow_end_ns - flow.time_flow_start_ns < SECOND_NS


def test_damage_leaves_announcements_and_times_of_what_stands_before(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n * SECOND_NS, frame(n)) for n in range(3)]
    done = run(pcap(made)[:-1], options=["--interval", "60"])
    assert done.status == 1
    latest = BEGIN_NS + SECOND_NS
    new_flows = done.recording.records("flowstream.new_flows")
    assert [(r.src_port, r.time_received_ns) for r in new_flows] == [
        (1000, latest),
        (1001, latest),
    ]
    assert {flow.time_received_ns for flow in done.flows} == {latest}
    (counters,) = done.counters
    assert (counters.time_unix_ns, counters.final) == (latest, True)
    assert counters.stages["new_flows"].acknowledged == 2


class OwnFaultError(Exception):
    pass


def test_any_fault_leaves_whole_books(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def packets_of(self: CaptureFile) -> Iterator[tuple[int, int, memoryview]]:
        yield from itertools.islice(read(self), 5)
        raise OwnFaultError

    read = CaptureFile.packets
    path, to = run.file(pcap(packets(7))), run.file(b"", "x").with_name("rec")
    monkeypatch.setattr(CaptureFile, "packets", packets_of)
    assert in_child(["pcap", str(path), "--sink", f"file:{to}"]) == (RAISED, "")
    monkeypatch.undo()
    assert main(["audit", str(to)]) == 0
    (counters,) = Recording(to).records("flowstream.counters")
    assert isinstance(counters, CountersRecord)
    assert (counters.seen_packets, counters.final) == (5, True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signal_ends_the_run_in_order(
    run: Runner, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = [Packet(BEGIN_NS + n, frame(n % 7)) for n in range(10_007)]
    read = PacketFeed.run
    runs = []

    def reading(*args: object) -> object:
        runs.append(args)
        if len(runs) == 3:
            signal.raise_signal(signal.Signals[name])
        return read(*args)

    monkeypatch.setattr(PacketFeed, "run", reading)
    done = run(pcap(made))
    assert (done.status, done.error) == (
        1,
        f"flowstream: error: stopped by {name}: what was read before it is published\n",
    )
    (counters,) = done.counters
    assert counters.final
    assert 3 * 1024 <= counters.seen_packets < len(made)
    assert sum(flow.packets for flow in done.flows) == counters.seen_packets


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("数据中心抓包", "数据中心抓"),
        ("a数据中心抓包", "a数据中心"),
        ("exactly-fifteen", "exactly-fifteen"),
        ("ééééééééé", "ééééééé"),
        ("a\u0301" * 5 + "\U0001f600", "a\u0301" * 5),
        ("abcdefghijklm\U0001f600", "abcdefghijklm"),
        (b"trace-\xff\xfe".decode("utf-8", "surrogateescape"), "trace-??"),
        ("\x1b[31mred\x07\x9b\n", "?[31mred???"),
    ],
)
@pytest.mark.parametrize("record_format", ["json", "msgpack"])
def test_name_of_a_file_is_cut_to_the_octets_of_an_interfaces_name(
    run: Runner, stem: str, name: str, record_format: str
) -> None:
    path = run.file(pcap(packets(3)), f"{stem}.pcap")
    done = run(path, options=["--format", record_format])
    assert (done.status, done.error) == (0, "")
    assert {flow.if_name for flow in done.flows} == {name}
    assert {counters.if_name for counters in done.counters} == {name}


def test_name_of_a_file_reaches_no_terminal_raw(run: Runner) -> None:
    path = run.file(pcap(packets(3))[:-1], "a\x1b[2J\n\x9b.pcap")
    error = run(path).error
    assert (error.count("\n"), error.rstrip().isprintable()) == (1, True)
    assert "a\\x1b[2J\\n\\x9b.pcap: octet " in error


def test_lengths_are_those_on_the_wire(run: Runner) -> None:
    large = frame()[:16] + b"\xff\xff" + frame()[18:]
    made = [
        Packet(BEGIN_NS, large + bytes(70_001 - len(large))),
        Packet(BEGIN_NS, large, 100_003),
        Packet(BEGIN_NS, frame(size=1000)[:60], 1_042),
    ]
    done = run(pcap(made))
    assert sum(flow.l2_bytes for flow in done.flows) == 70_001 + 100_003 + 1_042
    assert done.counters[0].seen_l2_bytes == 171_046


def test_frames_without_an_ethernet_header_are_malformed(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n, bytes(n), n + 100) for n in range(14)]
    done = run(pcap([*made, Packet(BEGIN_NS + 99, frame())]))
    assert done.refused() == {"malformed": 14}
    assert (done.counters[0].no_flow["malformed"].l2_bytes, len(done.flows)) == (
        sum(range(100, 114)),
        1,
    )


def test_table_that_is_too_small_loses_nothing(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n, frame(n % 997)) for n in range(9_973)]
    done = run(pcap(made), options=["--max-flows", "16", "--sampling", "1"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made])


def test_sampled_capture_passes_the_audit(run: Runner) -> None:
    done = run(pcap(packets(1_009)), options=["--sampling", "7"])
    assert done.status == 0
    sampled_out = done.counters[0].no_flow["sampled_out"].packets
    assert sampled_out + sum(flow.packets for flow in done.flows) == 1_009


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_capture_of_nothing_is_published_as_such(run: Runner, make: object) -> None:
    done = run(make([]))
    assert (done.status, done.error) == (0, "")
    assert done.recording.messages("flowstream.flows") == []
    assert [counters.seen_packets for counters in done.counters] == [0]


def host_id(run: Runner, *files: Path | bytes, options: str = "") -> str:
    """Of a run; all that it published has one."""
    done = run(*files, options=options.split())
    (found,) = {record.host_id for record in (*done.flows, *done.counters)}
    return found.hex()


def test_host_id_is_the_same_on_every_machine(run: Runner) -> None:
    assert host_id(run, captures.TRACES / "http_09.pcap") == GOLDEN_HOST_ID
    # Also of the options that are the default.
    options = "--interval 5 --max-flows 131072 --sampling 1"
    assert host_id(run, captures.TRACES / "http_09.pcap", options=options) == GOLDEN_HOST_ID


def test_host_id_tells_apart_what_has_other_records(run: Runner) -> None:
    made = packets(7)
    a, b, c = (pcap(made[:n]) for n in (7, 5, 3))
    ids = [
        host_id(run, a),
        host_id(run, b),
        host_id(run, a, b),
        host_id(run, b, a),
        host_id(run, a, c),
        host_id(run, pcapng(made)),
        host_id(run, a, options="--interval 7"),
        host_id(run, a, options="--max-flows 1024"),
        # Chance chooses the packets, every time anew.
        host_id(run, a, options="--sampling 2"),
        host_id(run, a, options="--sampling 2"),
    ]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("options", ["--format msgpack", "--partitions 3", "--community-id"])
def test_host_id_is_the_same_however_records_are_written(run: Runner, options: str) -> None:
    made = pcap(packets(7))
    assert host_id(run, made, options=options) == host_id(run, made)


def test_captures_that_begin_at_the_same_time_are_runs_of_their_own(run: Runner) -> None:
    """As tools write them that have no time: the first packet is at 0."""
    sums = []
    for count in (7, 11, 13):
        done = run(pcap([Packet(n, frame(n)) for n in range(count)]), into="all")
        assert (done.status, done.error) == (0, "")
        sums.append(sum(flow.packets for flow in done.flows))
    assert sums == [7, 7 + 11, 7 + 11 + 13]
    runs = {(flow.host_id, flow.agent_epoch, flow.seq) for flow in done.flows}
    assert len(runs) == sum((7, 11, 13))


def test_files_that_are_shared_by_runs_lose_nothing(run: Runner) -> None:
    a, b, c = (pcap(packets(n)) for n in (7, 11, 13))
    for files in ((a, b), (a, c)):
        done = run(*files, into="all")
        assert (done.status, done.error) == (0, "")
    done = run(a, b, options=["--interval", "7"], into="all")
    assert (done.status, done.error) == (0, "")
    assert sum(flow.packets for flow in done.flows) == 7 + 11 + 7 + 13 + 7 + 11


def test_a_file_that_is_named_twice_is_refused(run: Runner, tmp_path: Path) -> None:
    file, link, hard = (tmp_path / name for name in ("a.pcap", "link.pcap", "hard.pcap"))
    file.write_bytes(pcap(packets(7)))
    link.symlink_to(file)
    hard.hardlink_to(file)
    for other in (file, link, hard, tmp_path / "." / ".." / tmp_path.name / "a.pcap"):
        done = run(file, other)
        assert done.status == 2
        assert done.error == (
            f"flowstream: error: {other}: the same file as {file}; name it once\n"
        )
        assert not (tmp_path / "run1").exists()
    # A copy is another file.
    shutil.copy(file, tmp_path / "copy.pcap")
    done = run(file, tmp_path / "copy.pcap")
    assert sum(flow.packets for flow in done.flows) == 14


def test_messages_have_the_times_of_their_records(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n * 1_000_003, frame(n % 7)) for n in range(5_003)]
    first, second = (run(pcap(made), options=["--interval", "1"]) for _ in range(2))
    found = first.recording.messages()
    assert found == second.recording.messages()
    for topic in ("flowstream.flows", "flowstream.new_flows"):
        times = [
            (record.seq, record.time_received_ns // 1_000_000, message.timestamp_ms)
            for message, record in zip(
                first.recording.messages(topic), first.recording.records(topic), strict=True
            )
        ]
        assert all(received == stamped for _, received, stamped in times)
        in_order = [stamped for _, _, stamped in sorted(times)]
        assert in_order == sorted(in_order)
    # At the last packet of each second, and at the end.
    ends = [BEGIN_NS // 1_000_000 + ms for ms in (999, 1_999, 2_999, 3_999, 4_999, 5_002)]
    flows = first.recording.messages("flowstream.flows")
    assert sorted({message.timestamp_ms for message in flows}) == ends
    assert [m.timestamp_ms for m in first.recording.messages("flowstream.counters")] == ends[-1:]


def test_flows_are_published_while_the_capture_is_read(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "steps"
    read, send = PacketFeed.run, SegmentSink.send

    def note(step: str) -> None:
        os.write(steps, f"{step}\n".encode())

    def reading(*args: object) -> object:
        note("read")
        return read(*args)

    async def sending(*args: object) -> None:
        note("sent")
        await send(*args)

    monkeypatch.setattr(PacketFeed, "run", reading)
    monkeypatch.setattr(SegmentSink, "send", sending)
    # Opened here: the run has no privileges.
    steps = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    run(pcap(packets(7)), options=["--interval", "1"])
    os.close(steps)
    done = log.read_text(encoding="utf-8").split()
    assert done.index("sent") < 3 < done.count("read")


def test_end_says_what_was_published(run: Runner, tmp_path: Path) -> None:
    done = run(pcap(packets(1_009)), pcap(packets(7)), options=["--interval", "3600"])
    path = tmp_path / "run1"
    assert done.summary == f"1,016 packets of 2 files in 6 flow records -> file:{path}\n"


def test_files_are_looked_at_before_anything_is_published(run: Runner, tmp_path: Path) -> None:
    good = run.file(pcap(packets(7)), "good.pcap")
    bad = run.file(pcap(packets(7), link=105), "bad.pcap")
    unread = section() + interface(link=105) + enhanced(packets(1)[0])
    worse = run.file(unread, "worse.pcapng")
    text = run.file(b"not a capture, but text long enough", "text.pcap")
    for path, says in (
        (tmp_path / "none.pcap", "cannot be read: "),
        (bad, "octet 20: has link type 105"),
        (worse, "has link type 105"),
        (text, "octet 0: is no capture"),
    ):
        done = run(good, path)
        assert (done.status, done.summary) == (1, "")
        assert f"{path}: " in done.error
        assert says in done.error
        assert not done.recording.path.exists()


PRIVILEGES = """
import os, sys
from flowstream.cli.main import main
from flowstream.pcap.reader import CaptureFile
from flowstream.registry.client import RegistryClient
for kind, name in ((CaptureFile, "packets"), (CaptureFile, "parts"), (RegistryClient, "_post")):
    def watched(*args, whole=getattr(kind, name), name=name):
        with open("/proc/self/status") as status:
            caps = [line.split()[1] for line in status if line.startswith(("CapPrm", "CapEff"))]
        os.write(1, f"{name} {os.getresuid()} {os.getgroups()} {int(max(caps), 16)}\\n".encode())
        return whole(*args)
    setattr(kind, name, watched)
sys.exit(main(sys.argv[1:]))
"""


def test_captures_and_registry_are_read_without_privileges(
    run: Runner, tmp_path: Path, registry: Registry
) -> None:
    """Everything that root alone can open was opened before: captures and the recording."""
    tmp_path.chmod(0o700)
    paths = [run.file(pcap(packets(7)), f"{name}.pcap") for name in "ab"]
    for path in paths:
        path.chmod(0o400)
    options = ("--format", "avro", "--registry", registry.url, "--user", "nobody")
    recording = tmp_path / "recording"
    command = [sys.executable, "-c", PRIVILEGES, "pcap", *map(str, paths), "--sink"]
    done = subprocess.run(
        [*command, f"file:{recording}", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = done.stdout.splitlines()
    assert {step.partition(" ")[0] for step in steps} == {"packets", "parts", "_post"}
    uid = NOBODY.uid
    assert {step.partition(" ")[2] for step in steps} == {f"({uid}, {uid}, {uid}) [] 0"}
    assert {path.stat().st_uid for path in recording.rglob("*")} == {uid}
    flows = Recording(recording).messages("flowstream.flows")
    assert len(flows) > 0


def test_captures_share_the_program_but_no_count(run: Runner) -> None:
    done = run(*[pcap(packets(3))] * 41)
    assert done.status == 0, done.error
    assert done.summary.startswith("123 packets of 41 files in ")
    assert {record.if_index: record.seen_packets for record in done.counters} == dict.fromkeys(
        range(1, 42), 3
    )

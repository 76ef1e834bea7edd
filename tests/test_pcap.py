"""Captures through the kernel program: the reference's flows, whatever the file looks like."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from packets import captures, reference
from packets.pcap_files import (
    COOKED,
    COOKED2,
    RAW,
    SIMPLE,
    Packet,
    block,
    enhanced,
    interface,
    option,
    pcap,
    pcapng,
    section,
)
from scapy.utils import RawPcapNgReader, RawPcapReader
from test_binary_formats import avro_schema, from_avro, message_class
from test_community_id import expected as reference_id

from flowstream import schemas
from flowstream.batch import Stream
from flowstream.cli.main import main
from flowstream.errors import SourceError
from flowstream.pcap.reader import CaptureFile
from flowstream.testing.recorded import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flowstream.records import CountersRecord, FlowRecord

BEGIN_NS = 1_500_000_000_000_000_000
SECOND_NS = 1_000_000_000
README = (captures.TRACES / "README.md").read_text(encoding="utf-8")
COUNTS = {
    name: (int(packets), int(flows))
    for name, packets, flows in re.findall(
        r"^\| (\S+\.pcap) \| (\d+) \| (\d+) ", README, re.MULTILINE
    )
}
MAC = bytes.fromhex("020000000001020000000002")


def udp(n: int = 0, size: int = 0) -> bytes:
    """An IPv4 packet of flow ``n`` with ``size`` octets behind the UDP header."""
    length = struct.pack(">HH", 28 + size, 8 + size)
    head = b"\x45\0" + length[:2] + bytes(4) + b"\x40\x11\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return head + struct.pack(">HH", 1000 + n, 53) + length[2:] + bytes(2) + bytes(size)


def frame(n: int = 0, size: int = 0) -> bytes:
    return MAC + b"\x08\0" + udp(n, size)


def packets(count: int, step_ns: int = 1_000_003_000) -> list[Packet]:
    return [Packet(BEGIN_NS + n * step_ns, frame(n % 3, n)) for n in range(count)]


class Published(NamedTuple):
    """What a run left: its flows, announcements and counters, and what it said."""

    status: int
    error: str
    recording: Recording

    @property
    def flows(self) -> list[FlowRecord]:
        return self.recording.records("flowstream.flows")

    @property
    def counters(self) -> list[CountersRecord]:
        return self.recording.records("flowstream.counters")

    def sums(self) -> dict[reference.FlowKey, reference.Reading]:
        """The reference's form of the flows: records of a flow joined in the order of time."""
        table: dict[reference.FlowKey, reference.Reading] = {}
        names = [field.name for field in dataclasses.fields(reference.Reading)]
        for record in sorted(self.flows, key=lambda record: record.seq):
            reading = reference.Reading(**{name: getattr(record, name) for name in names})
            known = table.setdefault(reading.key, reading)
            if known is not reading:
                table[reading.key] = dataclasses.replace(
                    known,
                    packets=known.packets + reading.packets,
                    bytes=known.bytes + reading.bytes,
                    l2_bytes=known.l2_bytes + reading.l2_bytes,
                    tcp_flags=known.tcp_flags | reading.tcp_flags,
                    ip_ttl=min(known.ip_ttl, reading.ip_ttl),
                )
        return table

    def refused(self) -> dict[str, int]:
        non_ip = sum(counters.non_ip_packets for counters in self.counters)
        malformed = sum(counters.malformed_packets for counters in self.counters)
        return {k: n for k, n in (("non_ip", non_ip), ("malformed", malformed)) if n}


class Runner:
    """Runs ``flowstream pcap``; what a run published must pass the audit if that reads it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory, self._capsys, self._runs = directory, capsys, 0

    def file(self, content: bytes, name: str = "test.pcap") -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path

    def __call__(
        self, *files: Path | bytes, options: Iterable[str] = (), audited: bool = True
    ) -> Published:
        self._runs += 1
        to = self._directory / f"run{self._runs}"
        paths = [
            self.file(given, f"{n}.pcap") if isinstance(given, bytes) else given
            for n, given in enumerate(files)
        ]
        status = main(["pcap", *map(str, paths), "--sink", f"file:{to}", *options])
        error = self._capsys.readouterr().err
        if audited and to.exists():
            assert main(["audit", str(to)]) == 0, self._capsys.readouterr().out
            self._capsys.readouterr()
        return Published(status, error, Recording(to))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


@pytest.mark.parametrize("capture", captures.CAPTURES, ids=lambda path: path.stem)
def test_capture_gives_the_flows_of_the_reference(run: Runner, capture: Path) -> None:
    done = run(capture, options=["--interval", "3600"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), done.refused()) == reference.flows(captures.frames(capture))
    assert (done.counters[0].rx_packets, len(done.sums())) == COUNTS[capture.name]
    names = {(flow.in_if, flow.in_if_name, flow.host_id) for flow in done.flows}
    assert names == {(1, capture.stem[:15], bytes(16))}


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
@pytest.mark.parametrize("name", ["dns-edns-ecs.pcap", "mapi.pcap"])
def test_same_capture_gives_the_same_messages(run: Runner, name: str, record_format: str) -> None:
    path = captures.TRACES / name
    first, second = (
        run(path, path, options=["--format", record_format, "--interval", "1"]) for _ in range(2)
    )
    assert first.recording.messages() == second.recording.messages()
    assert len(first.recording.messages()) > 50
    assert {flow.in_if for flow in first.flows} == {1, 2}


class Form(NamedTuple):
    """How values are written: format, names and whether a registry frames them."""

    format: str
    names: str = "goflow2"
    frame: bytes = b""

    @property
    def options(self) -> list[str]:
        """What asks for it."""
        registry = ["--registry", "mock://here"] if self.frame else []
        return ["--format", self.format, "--names", self.names, *registry]


# A registry's first schema is that of the flows: a zero, its number in 4 octets.
FORMS = [
    *(Form("json", names) for names in ("goflow2", "ecs", "netobserv")),
    Form("msgpack"),
    Form("protobuf"),
    Form("protobuf", frame=b"\0\0\0\0\1\0"),
    Form("avro", frame=b"\0\0\0\0\1"),
]
AUDITED = [FORMS[0], Form("msgpack")]
"""What ``flowstream audit`` reads."""


class Row(NamedTuple):
    """What a flow record says under any name; the addresses are text."""

    seq: int
    src_addr: str
    dst_addr: str
    proto: int
    src_port: int
    dst_port: int
    packets: int
    bytes: int
    l2_bytes: int
    community_id: str


def row_of(fields: Mapping[str, Any]) -> Row:
    """Of fields with this project's names."""
    found = {"community_id": "", **fields}
    return Row(*(found[name] for name in Row._fields))


def ecs(value: dict[str, Any]) -> Row:
    network, source, destination = value["network"], value["source"], value["destination"]
    return Row(
        *(value["event"]["sequence"], source["ip"], destination["ip"]),
        *(int(network["iana_number"]), source["port"], destination["port"]),
        *(network["packets"], network["bytes"], value["flowstream"]["l2_bytes"]),
        network.get("community_id", ""),
    )


def netobserv(value: dict[str, Any]) -> Row:
    names = ("Seq", "SrcAddr", "DstAddr", "Proto", "SrcPort", "DstPort")
    sums = ("Packets", "IpBytes", "Bytes")
    return Row(*(value[name] for name in (*names, *sums)), value.get("CommunityId", ""))


BY_NAMES = {"goflow2": row_of, "ecs": ecs, "netobserv": netobserv}


def fields_of(form: Form, value: bytes, stream: Stream) -> dict[str, Any]:
    """Fields of a binary value, as the format's own library reads it."""
    match form.format:
        case "avro":
            return from_avro(value, stream)
        case "protobuf":
            name = "FlowMessage" if stream is Stream.FLOWS else "CountersMessage"
            message = message_class(schemas.text("protobuf", stream), f"flowstream.{name}")
            read = message.FromString(value)
            return {field.name: getattr(read, field.name) for field in message.DESCRIPTOR.fields}
        case _:
            names = [field["name"] for field in avro_schema(stream)["fields"]]
            return dict(zip(names, msgspec.msgpack.decode(value), strict=False))


def rows(form: Form, done: Published) -> list[Row]:
    """The published flows in their order, read without this project's decoder."""
    values = [message.value for message in done.recording.messages("flowstream.flows")]
    assert {value[: len(form.frame)] for value in values} == {form.frame}
    if form.format == "json":
        return [BY_NAMES[form.names](json.loads(value)) for value in values]
    found = []
    for value in values:
        fields = fields_of(form, value[len(form.frame) :], Stream.FLOWS)
        for name in ("src_addr", "dst_addr"):
            address = ipaddress.IPv6Address(fields[name])
            fields[name] = str(address.ipv4_mapped or address)
        found.append(row_of(fields))
    return found


def received(form: Form, done: Published) -> list[tuple[int, int, bool]]:
    """Packets and octets of each interface by its counters, and whether these are the last."""
    found = []
    for message in done.recording.messages("flowstream.counters"):
        if form.format == "json":
            fields = json.loads(message.value)
        else:
            fields = fields_of(form, message.value[len(form.frame) :], Stream.COUNTERS)
        found.append((fields["rx_packets"], fields["rx_bytes"], fields["final"]))
    return found


@pytest.mark.parametrize("community_id", [False, True], ids=["", "community id"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_every_form_has_the_same_records_every_time(
    run: Runner, form: Form, community_id: bool
) -> None:
    path = captures.TRACES / "cisco-fabric-path.pcap"
    options = ["--interval", "1", *(["--community-id"] if community_id else [])]
    plain = run(path, path, options=options)
    first, second = (
        run(path, path, options=[*options, *form.options], audited=form in AUDITED)
        for _ in range(2)
    )
    assert (first.status, first.error) == (0, "")
    assert first.recording.messages() == second.recording.messages()
    expected = rows(FORMS[0], plain)
    assert rows(form, first) == expected
    assert received(form, first) == received(FORMS[0], plain)
    assert len(expected) > 100
    assert [row.community_id for row in expected] == [
        reference_id(
            *(flow.proto, flow.src_addr, flow.dst_addr, flow.src_port, flow.dst_port),
            *(flow.icmp_type, flow.icmp_code),
        )
        if community_id
        else ""
        for flow in plain.flows
    ]


@pytest.mark.parametrize(
    "options",
    [
        "--format avro",
        "--format avro --sink stdout:",
        "--format avro --sink stdout: --registry mock://here",
        "--format avro --registry mock://here --names ecs",
        "--format msgpack --names ecs",
        "--format msgpack --registry mock://here",
        "--format protobuf --names netobserv",
        "--format protobuf --sink stdout:",
        "--format xml",
        "--names flowstream",
        "--registry mock://here",
        "--registry here:8081",
    ],
)
def test_mistakes_are_those_of_run(capsys: pytest.CaptureFixture[str], options: str) -> None:
    said = []
    for command in (["run", "-i", "none0"], ["pcap", "none.pcap"]):
        assert main([*command, *options.split()]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert re.fullmatch(r"flowstream: error: (--)?(format|names|registry): [^\n]+\n", said[0])


def test_no_registry_no_recording(run: Runner) -> None:
    options = ["--format", "avro", "--registry", "http://user:secret@127.0.0.1:1"]
    done = run(pcap(packets(1)), options=options)
    assert done.status == 1
    expected = "flowstream: error: registry http://127.0.0.1:1: cannot be used: "
    assert done.error.startswith(expected)
    assert not done.recording.path.exists()


def variants() -> dict[str, bytes]:
    made = packets(7)
    files = {
        f"pcap {name} {'ns' if fine else 'us'}": pcap(made, order=order, nanoseconds=fine)
        for name, order in (("little", "<"), ("big", ">"))
        for fine in (False, True)
    }
    files |= {f"pcapng {order}": pcapng(made, order=order) for order in "<>"}
    resolutions = [
        (b"\x06", 10**6), (b"\x09", 10**9), (b"\x03", 10**3), (b"\x94", 2**20)
    ]  # fmt: skip
    parts = [section(">")]
    parts += [interface(options=option(9, value, ">"), order=">") for value, _ in resolutions]
    # An offset of an hour, which the ticks have less; and a kind that is not read, unused.
    parts.append(interface(options=option(14, struct.pack(">q", 3600), ">"), order=">"))
    parts.append(interface(link=189, order=">"))
    for n, packet in enumerate(made):
        number = n % 5
        per_second = resolutions[number][1] if number < 4 else 10**6
        late = packet.time_ns - (3600 * SECOND_NS if number == 4 else 0)
        parts.append(enhanced(packet, number, late * per_second // SECOND_NS, ">"))
        parts.append(block(0x0BAD, b"a block of an unknown kind", ">"))
    files["pcapng several interfaces"] = b"".join(parts)
    files["pcapng several sections"] = b"".join(
        section(order) + interface(order=order) + enhanced(packet, order=order)
        for packet, order in zip(made, "<><><><", strict=True)
    )
    return files


@pytest.mark.parametrize("name", variants())
def test_every_form_of_file_gives_the_same_frames_and_flows(run: Runner, name: str) -> None:
    made = packets(7)
    path = run.file(variants()[name])
    with CaptureFile(path) as file:
        got = [(time_ns, length, bytes(data)) for time_ns, length, data in file.frames()]
    assert [(length, data) for _, length, data in got] == [(len(p.frame), p.frame) for p in made]
    for (time_ns, _, _), packet in zip(got, made, strict=True):
        assert 0 <= packet.time_ns - time_ns < 2_000_000  # the coarsest clock here: 1 ms
    done = run(path, options=["--interval", "3600"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), {}) == reference.flows([p.frame for p in made])


def test_files_of_the_tests_are_what_others_read(tmp_path: Path) -> None:
    made = packets(5)
    (tmp_path / "a").write_bytes(pcap(made))
    (tmp_path / "b").write_bytes(pcapng(made))
    with RawPcapReader(str(tmp_path / "a")) as old, RawPcapNgReader(str(tmp_path / "b")) as new:
        assert [data for data, _ in old] == [data for data, _ in new] == [p.frame for p in made]


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


def test_time_that_goes_back_loses_nothing(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n * SECOND_NS, frame()) for n in (100, 1, 101, 50, 106, 2, 3)]
    done = run(pcap(made))
    assert (done.status, sum(flow.packets for flow in done.flows)) == (0, 7)
    again = run(pcap(made))
    assert done.recording.messages() == again.recording.messages()


@pytest.mark.parametrize(
    ("link", "header", "extra"),
    [
        (RAW, b"", 0),
        (COOKED, struct.pack(">HHH8sH", 0, 1, 6, b"\2\0\0\0\0\1", 0x0800), 16),
        (COOKED2, struct.pack(">HHIHBB8s", 0x0800, 0, 3, 1, 0, 6, b"\2\0\0\0\0\1"), 20),
    ],
    ids=["raw", "cooked", "cooked v2"],
)
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_other_link_types_get_an_ethernet_header(
    run: Runner, make: object, link: int, header: bytes, extra: int
) -> None:
    made = [Packet(BEGIN_NS + n, header + udp(n % 3, n)) for n in range(7)]
    # Cut in its header: no frame, but a packet all the same.
    made.append(Packet(BEGIN_NS + 9, header[:1]))
    done = run(make(made, link=link))
    ethernet = [bytes(12) + b"\x08\0" + udp(n % 3, n) for n in range(7)]
    assert len(header) == extra
    assert done.sums() == reference.flows(ethernet)[0]
    assert sum(done.refused().values()) == 1
    assert done.counters[0].rx_packets == 8


def test_ipv6_in_raw_packets(run: Runner) -> None:
    packet = b"\x60" + bytes(3) + struct.pack(">HBB", 0, 59, 64) + bytes(31) + b"\1" * 1
    done = run(pcap([Packet(BEGIN_NS, packet)], link=RAW))
    assert [flow.etype for flow in done.flows] == [0x86DD]


def test_simple_packets_end_at_the_interfaces_limit(run: Runner) -> None:
    data = frame(size=50)
    body = struct.pack("<I", len(data)) + data[:61]
    path = run.file(section() + interface(snap=61) + block(SIMPLE, body))
    with CaptureFile(path) as file:
        assert [(t, n, bytes(d)) for t, n, d in file.frames()] == [(0, len(data), data[:61])]
    assert run(path).flows[0].l2_bytes == len(data)


def test_lengths_are_those_on_the_wire(run: Runner) -> None:
    large = frame()[:16] + b"\xff\xff" + frame()[18:]
    made = [
        Packet(BEGIN_NS, large + bytes(70_001 - len(large))),
        Packet(BEGIN_NS, large, 100_003),
        Packet(BEGIN_NS, frame(size=1000)[:60], 1_042),
    ]
    done = run(pcap(made))
    assert sum(flow.l2_bytes for flow in done.flows) == 70_001 + 100_003 + 1_042
    assert done.counters[0].rx_bytes == 171_046


def test_frames_without_an_ethernet_header_are_malformed(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n, bytes(n), n + 100) for n in range(14)]
    done = run(pcap([*made, Packet(BEGIN_NS + 99, frame())]))
    assert done.refused() == {"malformed": 14}
    assert (done.counters[0].malformed_bytes, len(done.flows)) == (sum(range(100, 114)), 1)


def test_table_that_is_too_small_loses_nothing(run: Runner) -> None:
    made = [Packet(BEGIN_NS + n, frame(n % 997)) for n in range(9_973)]
    done = run(pcap(made), options=["--max-flows", "16", "--sampling", "1"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made])


def test_sampled_capture_passes_the_audit(run: Runner) -> None:
    done = run(pcap(packets(1_009)), options=["--sampling", "7"])
    assert done.status == 0
    counted = done.counters[0]
    assert counted.sampled_out_packets + sum(flow.packets for flow in done.flows) == 1_009


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_capture_of_nothing_is_published_as_such(run: Runner, make: object) -> None:
    done = run(make([]))
    assert (done.status, done.error) == (0, "")
    assert done.recording.messages("flowstream.flows") == []
    assert [counters.rx_packets for counters in done.counters] == [0]


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_cut_anywhere_gives_all_that_stands_before(tmp_path: Path, make: object) -> None:
    made = [Packet(BEGIN_NS + n, frame(n, n)) for n in range(3)]
    ends = [len(make(made[:n])) for n in range(len(made) + 1)]
    path, whole = tmp_path / "cut", make(made)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        got: list[bytes] = []
        error = ""
        try:
            with CaptureFile(path) as file:
                got.extend(bytes(data) for _, _, data in file.frames())
        except SourceError as err:
            error = str(err)
        before = sum(end <= size for end in ends) - 1
        assert got == [packet.frame for packet in made[: max(before, 0)]], size
        # A section that ends at once is a whole file.
        whole_file = size in (*ends, *([len(section())] if make is pcapng else []))
        assert (error == "") == whole_file, (size, error)
        assert error == "" or re.fullmatch(rf"{path}: octet \d+: [^\n]+", error)


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_damage_ends_the_run_after_what_stands_before(run: Runner, make: object) -> None:
    made = packets(7)
    done = run(make(made)[:-1], make(made))
    assert done.status == 1
    assert re.fullmatch(
        r"flowstream: error: \S+/0\.pcap: octet \d+: is cut in a (packet|block)\n", done.error
    )
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made[:6]])
    assert [counters.final for counters in done.counters] == [True]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "octet 0: is no capture: shorter"),
        (b"not a capture, but text long enough", "octet 0: is no capture: neither pcap nor"),
        (pcap(packets(2), link=105), "octet 20: has link type 105, which is not read; read are:"),
        (section() + interface(link=105) + enhanced(packets(1)[0]), "has link type 105"),
        (section() + enhanced(packets(1)[0]), "a packet of interface 0, which is not described"),
        (pcap([]) + struct.pack("<IIII", 0, 0, 1 << 31, 60) + bytes(60), "says that a packet has"),
        (pcapng([]) + struct.pack("<III", 6, 1 << 31, 0), "says that a block has"),
        (pcapng([]) + struct.pack("<III", 6, 13, 0), "says that a block has 13 octets"),
        (pcapng([]) + struct.pack("<III", 6, 12, 13), "has a block whose two lengths differ"),
        (pcapng([]) + block(6, b""), "has a packet block that is too short"),
        (pcapng([]) + block(6, struct.pack("<5I", 0, 0, 0, 9, 9)), "says that a packet has 9"),
        (section() + block(1, b""), "has an interface block that is too short"),
        (section()[:8] + bytes(20), "has a section without byte order"),
    ],
)
def test_what_is_no_capture_is_named(run: Runner, content: bytes, text: str) -> None:
    done = run(content)
    assert done.status == 1
    assert done.error.startswith("flowstream: error: ")
    assert done.error.count("\n") == 1
    assert text in done.error


def test_file_that_is_not_there_is_named(run: Runner, tmp_path: Path) -> None:
    for path in (tmp_path / "none.pcap", tmp_path):
        done = run(path)
        assert done.status == 1
        assert f"{path}: cannot be read: " in done.error

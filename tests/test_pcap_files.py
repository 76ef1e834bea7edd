"""Capture files of every form, whole and damaged."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest
from packets import reference
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
from support.pcap_runs import BEGIN_NS, SECOND_NS, Runner, frame, packets, udp

from flowstream.errors import SourceError
from flowstream.pcap.reader import CaptureFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


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
        got = [(time_ns, length, bytes(data)) for time_ns, length, data in file.packets()]
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
    assert done.counters[0].seen_packets == 8


def test_ipv6_in_raw_packets(run: Runner) -> None:
    packet = b"\x60" + bytes(3) + struct.pack(">HBB", 0, 59, 64) + bytes(31) + b"\1" * 1
    done = run(pcap([Packet(BEGIN_NS, packet)], link=RAW))
    assert [flow.etype for flow in done.flows] == [0x86DD]


def test_simple_packets_end_at_the_interfaces_limit(run: Runner) -> None:
    data = frame(size=50)
    body = struct.pack("<I", len(data)) + data[:61]
    path = run.file(section() + interface(snap=61) + block(SIMPLE, body))
    with CaptureFile(path) as file:
        assert [(t, n, bytes(d)) for t, n, d in file.packets()] == [(0, len(data), data[:61])]
    assert run(path).flows[0].l2_bytes == len(data)


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
                got.extend(bytes(data) for _, _, data in file.packets())
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
        (
            pcap(packets(2), link=105),
            "octet 20: has link type 105, which is not supported; supported are:",
        ),
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

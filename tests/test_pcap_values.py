"""Values in capture files: each has its meaning, or is an error at its octet."""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packets import reference
from packets.pcap_files import (
    COOKED,
    FCS_PRESENT,
    KUZNETZOV,
    NANOSECONDS,
    RAW,
    SIMPLE,
    Packet,
    block,
    enhanced,
    interface,
    obsolete,
    option,
    pcap,
    pcap_header,
    pcapng,
    section,
)
from support.pcap_runs import BEGIN_NS, Runner, frame, packets, udp

from flowstream.errors import SourceError
from flowstream.pcap.reader import CaptureFile

if TYPE_CHECKING:
    from pathlib import Path

FCS = b"\xfe\xdc\xba\x98"
TSRESOL, FCSLEN, TSOFFSET, FLAGS, DROPS = 9, 13, 14, 2, 4


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


def read(path: Path) -> tuple[list[tuple[int, int, bytes]], str]:
    """Packets of a file, and the error that ended it."""
    got: list[tuple[int, int, bytes]] = []
    try:
        with CaptureFile(path) as file:
            got.extend((time_ns, length, bytes(data)) for time_ns, length, data in file.packets())
    except SourceError as err:
        return got, str(err).removeprefix(f"{path}: ")
    return got, ""


def at_ticks(*ticks: int, options: bytes = b"") -> bytes:
    """A section whose packets have these times."""
    made = [Packet(0, frame(n)) for n in range(len(ticks))]
    blocks = [enhanced(packet, ticks=tick) for packet, tick in zip(made, ticks, strict=True)]
    return b"".join([section(), interface(options=options), *blocks])


PACKET = struct.pack("<II", 6, len(enhanced(Packet(0, frame()))))

OUT_OF_RANGE = {
    "beyond 2262": (at_ticks(1, 2**63 // 1000 + 1), 9_223_372_036),
    "beyond 64 bits": (at_ticks(1, 2**64 - 1), (2**64 - 1) // 10**6),
    "resolution of 1 s": (
        at_ticks(1, 2**34, options=option(TSRESOL, b"\0")),
        2**34,
    ),
    "resolution of 1 s by powers of 2": (
        at_ticks(1, 2**64 - 1, options=option(TSRESOL, b"\x80")),
        2**64 - 1,
    ),
    "offset of the largest number": (
        at_ticks(1, options=option(TSOFFSET, struct.pack("<q", 2**63 - 1))),
        2**63 - 1,
    ),
    "before 1970": (
        at_ticks(7_000_000, 1, options=option(TSOFFSET, struct.pack("<q", -5))),
        -5,
    ),
    "offset of the smallest number": (
        at_ticks(1, options=option(TSOFFSET, struct.pack("<q", -(2**63)))),
        -(2**63),
    ),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_time_out_of_range_is_an_error_at_its_octet(tmp_path: Path, name: str) -> None:
    content, seconds = OUT_OF_RANGE[name]
    (tmp_path / "a").write_bytes(content)
    got, error = read(tmp_path / "a")
    wanted = content.count(PACKET) - 1
    assert len(got) == wanted
    last = content.rindex(PACKET)
    assert error == (
        f"octet {last + 12}: has a packet at {seconds} s since 1970; "
        "supported are times from 1970 to 2262"
    )


def test_what_stands_before_a_time_out_of_range_is_published(run: Runner) -> None:
    made = packets(5)
    done = run(pcapng(made) + enhanced(made[0], ticks=2**60))
    assert (done.status, done.error.count("\n")) == (1, 1)
    assert "s since 1970; supported are times from 1970 to 2262" in done.error
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made])
    assert [(each.seen_packets, each.final) for each in done.counters] == [(5, True)]


@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [
        (0, 2**33, 2**33 * 10**9),
        (6, 2**63 // 1000, 2**63 // 1000 * 1000),
        (9, 2**63 - 1, 2**63 - 1),
        (12, 2**64 - 1, (2**64 - 1) // 1000),
        (127, 2**64 - 1, 0),
        (0x80 | 127, 2**64 - 1, 0),
        (0x80 | 30, 2**63, 2**33 * 10**9),
        (0x80 | 64, 2**64 - 1, 999_999_999),
    ],
)
def test_any_resolution(tmp_path: Path, resolution: int, ticks: int, time_ns: int) -> None:
    content = at_ticks(ticks, options=option(TSRESOL, bytes([resolution])))
    (tmp_path / "a").write_bytes(content)
    assert [got[0] for got in read(tmp_path / "a")[0]] == [time_ns]


def test_latest_time_of_all_is_published_in_every_format(run: Runner) -> None:
    last = (2**63 - 1) // 1000 * 1000
    for record_format in ("json", "msgpack"):
        done = run(pcapng([Packet(last, frame())]), options=["--format", record_format])
        assert (done.status, done.error) == (0, "")
        assert [flow.time_flow_start_ns for flow in done.flows] == [last]


def test_simple_packet_has_no_time(tmp_path: Path) -> None:
    offset = option(TSOFFSET, struct.pack("<q", -5))
    data = frame()
    simple = block(SIMPLE, struct.pack("<I", len(data)) + data)
    (tmp_path / "a").write_bytes(section() + interface(options=offset) + simple)
    assert read(tmp_path / "a") == ([(0, len(data), data)], "")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("drops", [0, 1, 257, 0xFFFF])
def test_obsolete_packets_are_packets(run: Runner, order: str, drops: int) -> None:
    made = packets(7)
    parts = [section(order), interface(link=1, order=order), interface(order=order)]
    parts += [obsolete(each, n % 2, drops, order) for n, each in enumerate(made)]
    done = run(b"".join(parts), options=["--interval", "3600"])
    assert done.status == 0
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made])
    dropped = 0 if drops == 0xFFFF else 7 * drops
    said = f"{done.file}: {dropped:,} packets were dropped when it was captured"
    assert done.error == (f"flowstream: warning: {said}\n" if dropped else "")


def test_drops_are_told(run: Runner) -> None:
    count = option(DROPS, struct.pack("<Q", 13)) + option(0, b"")
    made = packets(3)
    done = run(section() + interface() + b"".join(enhanced(p, options=count) for p in made))
    assert done.status == 0
    assert "0.pcap: 39 packets were dropped when it was captured\n" in done.error
    assert done.counters[0].seen_packets == 3


@pytest.mark.parametrize("kind", [4, 5, 9, 10, 0xBAD, 0x40000BAD])
def test_blocks_without_packets_are_skipped(run: Runner, kind: int) -> None:
    made = packets(3)
    other = block(kind, b"anything")
    done = run(section() + other + interface() + other.join(map(enhanced, made)) + other)
    assert (done.status, done.error, done.counters[0].seen_packets) == (0, "", 3)


def test_unknown_blocks_are_told(run: Runner) -> None:
    made = packets(3)
    others = block(0x0B, b"") + block(0x80000001, b"may be a packet") + block(0x0B, b"")
    done = run(pcapng(made[:2]) + others + enhanced(made[2]))
    assert (done.status, done.counters[0].seen_packets) == (0, 3)
    assert done.error == (
        f"flowstream: warning: {done.file}: skipped 3 blocks of unknown type (0x0000000b, "
        "0x80000001), in which packets may be\n"
    )


def test_unknown_blocks_are_told_before_damage_too(run: Runner) -> None:
    done = run(pcapng(packets(2)) + block(0x0B, b"") + b"\0")
    assert done.status == 1
    assert "skipped 1 block of unknown type" in done.error
    assert "is cut in the header of a block" in done.error


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            section() + interface(options=option(TSRESOL, b"\x06\x06")),
            "octet 44: has an option 9 of 2 octets instead of 1",
        ),
        (
            section() + interface(options=option(TSOFFSET, b"")),
            "octet 44: has an option 14 of 0 octets instead of 8",
        ),
        (
            section() + interface(options=option(FCSLEN, bytes(4))),
            "octet 44: has an option 13 of 4 octets instead of 1",
        ),
        (
            section() + interface(options=struct.pack("<HH", 3, 65_535)),
            "octet 44: has an option of 65535 octets, longer than its block",
        ),
        (
            section() + block(1, struct.pack("<HHIHH", 1, 0, 0, TSRESOL, 5)),
            "octet 44: has an option of 5 octets, longer than its block",
        ),
        (
            pcapng([]) + enhanced(packets(1)[0], options=struct.pack("<HH", 1, 8)),
            "octet 120: has an option of 8 octets, longer than its block",
        ),
        (
            block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)),
            "octet 12: has version 2.0 of pcapng; supported is 1",
        ),
        (
            pcapng([]) + struct.pack("<IIII", 0x0A0D0D0A, 16, 0x1A2B3C4D, 16),
            "octet 48: has a section block that is too short",
        ),
        (
            pcapng([]) + section(">") + enhanced(packets(1)[0], order=">"),
            "octet 84: has a packet of interface 0, which is not described",
        ),
        (
            pcap_header(version=(1, 2)) + bytes(16),
            "octet 4: has version 1.2 of pcap; supported are 2.0 to 2.4",
        ),
        (
            pcap_header(version=(2, 5)),
            "octet 4: has version 2.5 of pcap; supported are 2.0 to 2.4",
        ),
        (
            pcap_header(version=(2, 65_535), order=">"),
            "octet 4: has version 2.65535 of pcap; supported are 2.0 to 2.4",
        ),
        (
            pcap([Packet(0, bytes(20), 2**32 - 1)], link=RAW),
            "octet 32: says that a packet has 4294967295 octets",
        ),
        (
            pcapng([Packet(0, bytes(20), 2**32 - 14)], link=RAW),
            "octet 48: says that a packet has 4294967282 octets",
        ),
        (
            pcap([]) + struct.pack("<IIII", 0, 0, 2**32 - 1, 2**32 - 1) + bytes(60),
            "octet 32: says that a packet has 4294967295 octets",
        ),
    ],
)
def test_value_out_of_range_is_an_error_at_its_octet(
    tmp_path: Path, content: bytes, error: str
) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read(tmp_path / "a") == ([], error)


def test_longest_lengths_on_the_wire(run: Runner) -> None:
    made = [Packet(BEGIN_NS, frame(), 2**32 - 1), Packet(BEGIN_NS, frame(1), 2**32 - 1)]
    assert run(pcap(made)).counters[0].seen_l2_bytes == 2 * (2**32 - 1)
    cooked = struct.pack(">HHH8sH", 0, 1, 6, b"\2\0\0\0\0\1", 0x0800) + udp()
    done = run(pcap([Packet(BEGIN_NS, cooked, 2**32 - 15)], link=COOKED))
    assert done.counters[0].seen_l2_bytes == 2**32 - 15 - 16 + 14


@pytest.mark.parametrize("order", "<>")
def test_kuznetzovs_form_has_longer_packet_headers(run: Runner, order: str) -> None:
    made = packets(7)
    parts = [pcap_header(KUZNETZOV, order=order)]
    for each in made:
        seconds, rest = divmod(each.time_ns // 1000, 10**6)
        sizes = len(each.frame), each.wire_length
        parts.append(struct.pack(order + "4IIHBx", seconds, rest, *sizes, 2, 0x0800, 0))
        parts.append(each.frame)
    done = run(b"".join(parts), options=["--interval", "3600"])
    assert (done.status, done.error) == (0, "")
    assert (done.sums(), {}) == reference.flows([packet.frame for packet in made])


@pytest.mark.parametrize("version", [(2, 0), (2, 1), (2, 2), (2, 3), (543, 0)])
def test_older_versions_have_the_lengths_the_other_way_around(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    content = pcap_header(version=version, snap=0)
    content += struct.pack("<4I", 1, 2, 100, 60) + frame(size=18)
    if version == (2, 3):  # some of its writers
        content += struct.pack("<4I", 1, 2, 60, 100) + frame(size=18)
    (tmp_path / "a").write_bytes(content)
    got, error = read(tmp_path / "a")
    assert error == ""
    assert set(got) == {(1_000_002_000, 100, frame(size=18))}


def with_fcs(*frames: bytes) -> list[Packet]:
    return [Packet(BEGIN_NS + n, each + FCS) for n, each in enumerate(frames)]


CHECKED = {
    "pcap": lambda made: pcap(made, link=1 | FCS_PRESENT | 2 << 28),
    "pcap, big-endian": lambda made: pcap(made, link=1 | FCS_PRESENT | 2 << 28, order=">"),
    "pcapng, octets": lambda made: with_options(made, option(FCSLEN, b"\4")),
    "pcapng, bits": lambda made: with_options(made, option(FCSLEN, b"\x20")),
    "pcapng, of the packet": lambda made: with_options(
        made, option(FCSLEN, b"\2"), option(FLAGS, struct.pack("<I", 4 << 5)) + option(0, b"")
    ),
}


def with_options(made: list[Packet], of_interface: bytes, of_packets: bytes = b"") -> bytes:
    blocks = [enhanced(packet, options=of_packets) for packet in made]
    return b"".join([section(), interface(options=of_interface), *blocks])


@pytest.mark.parametrize("name", CHECKED)
def test_declared_check_sequence_is_no_part_of_the_frame(run: Runner, name: str) -> None:
    # An IPv4 packet without the ports that its check sequence would be read as.
    bare = frame()[:34]
    frames = [frame(), frame(1, 22), bare]
    done = run(CHECKED[name](with_fcs(*frames)))
    assert (done.status, done.error) == (0, "")
    assert done.counters[0].seen_l2_bytes == sum(map(len, frames))
    assert (done.sums(), {}) == reference.flows(frames)


def test_check_sequence_that_was_not_captured(run: Runner) -> None:
    made = [Packet(BEGIN_NS, frame(), len(frame()) + 4), Packet(BEGIN_NS, frame()[:13], 3)]
    done = run(CHECKED["pcap"](made))
    assert done.counters[0].seen_l2_bytes == len(frame())
    assert done.refused() == {"malformed": 1}


def test_check_sequence_counts_only_where_it_is_declared(run: Runner) -> None:
    for link in (1, 1 | 2 << 28, 1 | FCS_PRESENT):
        done = run(pcap(with_fcs(frame()), link=link))
        assert done.counters[0].seen_l2_bytes == len(frame()) + 4


def test_octets_behind_the_length_on_the_wire_are_no_part_of_the_frame(run: Runner) -> None:
    bare = frame()[:34]
    made = [Packet(BEGIN_NS, bare + FCS, len(bare)), Packet(BEGIN_NS, frame(), 0)]
    for content in (pcap(made), pcapng(made)):
        done = run(content)
        assert [(flow.src_port, flow.l2_bytes) for flow in done.flows] == [(0, 34)]
        assert done.refused() == {"malformed": 1}


FILES = [
    pcap(packets(3)),
    pcap(packets(3), order=">", nanoseconds=True),
    pcap_header(KUZNETZOV) + bytes(24) * 3,
    pcap_header(NANOSECONDS, version=(2, 3), link=113 | FCS_PRESENT | 1 << 28) + bytes(16) * 3,
    pcapng(packets(3)),
    CHECKED["pcapng, of the packet"](with_fcs(frame(), frame(1))),
    section(">")
    + interface(options=option(TSRESOL, b"\x89", ">"), order=">", link=RAW)
    + obsolete(packets(1)[0], order=">")
    + block(SIMPLE, struct.pack(">I", 28) + udp(), ">")
    + section()
    + interface(options=option(TSOFFSET, bytes(8)))
    + enhanced(packets(1)[0]),
]


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(FILES),
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.sampled_from([b"\0", b"\xff", b"\x80", b"\1", b"\xff\xff\xff\xff", b"\x7f", b"\4"])
            | st.binary(min_size=1, max_size=4),
        ),
        max_size=4,
    ),
    st.integers(0, 300),
)
def test_no_change_of_a_file_gives_anything_but_packets_in_range_and_one_error(
    tmp_path: Path, content: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    changed = bytearray(content)
    for at, value in changes:
        changed[at : at + len(value)] = value
    path = tmp_path / "a"
    path.write_bytes(changed[: len(changed) - cut] if cut < 100 else changed)
    got, error = read(path)
    for time_ns, length, data in got:
        assert 0 <= time_ns < 2**63
        assert 0 <= length < 2**32
        assert len(data) <= max(length, 14)
    assert error == "" or re.fullmatch(r"octet \d+: [^\n]+", error)


def test_large_packets_and_blocks_cross_the_pieces_that_are_read(tmp_path: Path) -> None:
    sizes = [5, 262_100, 3, 1 << 20, 0, 262_144, 17, *[997] * 700]
    made = [Packet(n * 1000, bytes([n % 256]) * size) for n, size in enumerate(sizes)]
    files = itertools.product((pcap, pcapng), "<>")
    for make, order in files:
        (tmp_path / "a").write_bytes(make(made, order=order))
        got, error = read(tmp_path / "a")
        assert error == ""
        assert got == [(n * 1000, len(p.frame), p.frame) for n, p in enumerate(made)]

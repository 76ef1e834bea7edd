"""The programs of the TC hook on given packets, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from packets import corpus, reference
from packets.build import SRC_PORT, ether, extension, fragment6, ip4, ip6, tag, tcp, udp, v4, v6
from packets.compare import difference, differences
from packets.kernel import Kernel, wire
from support.programs import FlowBench, SocketBuffer, run_packet

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode
from flowstream.layouts.constants import NoFlowReason

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMES = corpus.frames()
IP_HEADERS = {0x0800: 20, 0x86DD: 40}
LARGEST = 3_400
"""BPF_PROG_TEST_RUN takes no frames of more than a page at the TC hook."""


def taken(frame: bytes) -> bool:
    """Whether BPF_PROG_TEST_RUN makes a packet at the TC hook of a frame."""
    etype = int.from_bytes(frame[12:14], "big")
    return 14 + IP_HEADERS.get(etype, 1) <= len(frame) <= LARGEST


@pytest.fixture(scope="module")
def one_by_one() -> Iterator[Kernel]:
    """A kernel whose table is full: each packet leaves as its own record."""
    with Kernel(max_flows=1, mode=Mode.TCX) as kernel:
        yield kernel


def test_every_packet_reads_as_in_the_reference(one_by_one: Kernel) -> None:
    frames = {name: frame for name, frame in FRAMES.items() if taken(frame)}
    assert len(frames) > 2_500

    def compare(name: str) -> str | None:
        return difference(one_by_one.observe(frames[name]), reference.read(frames[name]))

    assert differences(frames, compare) == []


def record(
    frame: bytes,
    *,
    direction: int = INGRESS,
    skb: SocketBuffer | None = None,
    raw: bool = False,
) -> dict[str, Any]:
    """The record of one packet, which is all that the program saw."""
    bench = FlowBench(max_flows=11, mode=Mode.TCX, direction=direction, raw=raw)
    try:
        bench.run(frame, skb=skb)
        (batch,) = bench.probe.drain(2)
        (found,) = wire(batch)
        counts = bench.counters()
        assert counts["seen_packets"] == found["packets"]
        assert counts["seen_l2_bytes"] == found["l2_bytes"]
        assert found["flow_direction"] == direction
        return found
    finally:
        bench.close()


def segments(size: int, count: int = 0, wire_len: int = 0) -> SocketBuffer:
    """A packet that is to be cut into segments of ``size`` octets behind their headers."""
    return SocketBuffer(gso_size=size, gso_segs=count, wire_len=wire_len)


def sums(found: dict[str, Any]) -> tuple[int, int, int]:
    return found["packets"], found["bytes"], found["l2_bytes"]


TIMESTAMPS = 12
"""Octets of TCP options that all segments of a connection have."""
PAYLOAD = bytes(1_009)


def tcp_segment(payload: bytes = PAYLOAD, options: int = TIMESTAMPS) -> bytes:
    """A TCP header with options, and a payload."""
    header = tcp()
    offset = (20 + options) // 4 << 4
    return header[:12] + bytes([offset]) + header[13:] + bytes(options) + payload


def vxlan(inner: bytes, port: int = 4789) -> bytes:
    """A UDP datagram with a VXLAN header and a frame."""
    body = bytes([8, 0, 0, 0, 0, 0, 42, 0]) + inner
    return struct.pack("!HHHH", SRC_PORT, port, 8 + len(body), 0) + body


def geneve(inner: bytes, options: int, etype: int = 0x6558) -> bytes:
    """A UDP datagram with a Geneve header, ``options`` octets of options and a packet."""
    body = struct.pack("!BBHI", options // 4, 0, etype, 42 << 8) + bytes(options) + inner
    return struct.pack("!HHHH", SRC_PORT, 6081, 8 + len(body), 0) + body


def gre(etype: int, inner: bytes, flags: int = 0) -> bytes:
    """A GRE header with the fields that its flags stand for, and a packet."""
    fields = sum(4 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)
    return struct.pack("!HH", flags, etype) + bytes(fields) + inner


def jumbo(proto: int, payload: bytes) -> bytes:
    """BIG TCP over IPv6, as it is in memory: the length is in a hop-by-hop header."""
    option = struct.pack("!BBBBI", proto, 0, 0xC2, 4, 8 + len(payload))
    return ip6(0, option + payload, length=0)


SEGMENTED = {
    # Ten segments of up to 101 octets: the last has 100, or 101; or an eleventh has one.
    "v4-tcp": (v4(6, tcp(payload=PAYLOAD)), 101, 0, (10, 40, 14)),
    "v4-tcp-whole": (v4(6, tcp(payload=bytes(1_010))), 101, 0, (10, 40, 14)),
    "v4-tcp-one-more": (v4(6, tcp(payload=bytes(1_011))), 101, 0, (11, 40, 14)),
    "v4-tcp-single": (v4(6, tcp(payload=bytes(101))), 101, 0, (1, 40, 14)),
    "v4-tcp-timestamps": (v4(6, tcp_segment()), 101, 10, (10, 52, 14)),
    "v4-tcp-most-options": (v4(6, tcp_segment(options=40)), 101, 10, (10, 80, 14)),
    "v4-options": (v4(6, tcp_segment(), options=b"\1" * 12), 101, 10, (10, 64, 14)),
    # A length of 0: more than 65,535 octets before they are cut.
    "v4-big-tcp": (v4(6, tcp_segment(), total=0), 101, 10, (10, 52, 14)),
    "v6-tcp": (v6(6, tcp_segment()), 101, 10, (10, 72, 14)),
    "v6-extension": (v6(60, extension(6, tcp_segment(), units=1)), 101, 10, (10, 88, 14)),
    "v6-big-tcp": (ether(0x86DD, jumbo(6, tcp_segment())), 101, 10, (10, 72, 14)),
    # Such a header that the kernel has not made is on the wire.
    "v6-jumbo-udp": (ether(0x86DD, jumbo(17, udp(PAYLOAD))), 101, 10, (10, 56, 14)),
    "v6-big-tcp-new": (v6(6, tcp_segment(), length=0), 101, 10, (10, 72, 14)),
    # A guest's packet: how many segments it has, nobody says.
    "v4-tcp-of-a-guest": (v4(6, tcp_segment()), 101, 0, (10, 52, 14)),
    "v4-tcp-count-that-lies": (v4(6, tcp_segment()), 101, 3, (10, 52, 14)),
    "v4-udp": (v4(17, udp(PAYLOAD)), 101, 10, (10, 28, 14)),
    "v6-udp": (v6(17, udp(PAYLOAD)), 101, 10, (10, 48, 14)),
    # The kernel keeps the chunks of each SCTP packet apart.
    "v4-sctp": (v4(132, bytes(12) + PAYLOAD), 0xFFFF, 3, (3, 32, 14)),
    "vlan": (ether(0x8100, tag(7, 0x0800, ip4(6, tcp_segment()))), 101, 10, (10, 52, 18)),
    "qinq": (
        ether(0x88A8, tag(7, 0x8100, tag(9, 0x86DD, ip6(6, tcp_segment())))), 101, 10, (10, 72, 22)
    ),
    "vxlan": (v4(17, vxlan(v4(6, tcp_segment()))), 101, 10, (10, 36 + 14 + 52, 14)),
    "vxlan-linux": (v4(17, vxlan(v6(6, tcp_segment()), 8472)), 101, 10, (10, 36 + 14 + 72, 14)),
    "vxlan-over-v6": (v6(17, vxlan(v4(17, udp(PAYLOAD)))), 101, 10, (10, 56 + 14 + 28, 14)),
    "geneve": (v4(17, geneve(v4(6, tcp_segment()), 24)), 101, 10, (10, 60 + 14 + 52, 14)),
    "geneve-ip": (
        v4(17, geneve(ip4(6, tcp_segment()), 0, 0x0800)), 101, 10, (10, 36 + 52, 14)
    ),
    "gre": (v4(47, gre(0x0800, ip4(6, tcp_segment()))), 101, 10, (10, 24 + 52, 14)),
    "gre-fields": (
        v4(47, gre(0x86DD, ip6(6, tcp_segment()), 0xB000)), 101, 10, (10, 36 + 72, 14)
    ),
    "gretap": (v4(47, gre(0x6558, v4(6, tcp_segment()))), 101, 10, (10, 24 + 14 + 52, 14)),
    "ipip": (v4(4, ip4(6, tcp_segment())), 101, 10, (10, 20 + 52, 14)),
    "6in4": (v4(41, ip6(6, tcp_segment())), 101, 10, (10, 20 + 72, 14)),
    # An application's datagrams to a tunnel's port: no frame is in them.
    "no-vxlan": (v4(17, vxlan(bytes(1_001))), 101, 10, (10, 28, 14)),
}  # fmt: skip
"""Frame, octets of a segment, segments as the kernel counts them, and what is right: segments,
octets of the headers of each from IP on, octets of its link-layer header."""


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("name", SEGMENTED)
def test_segments_count_as_on_the_wire(name, direction):
    frame, size, count, (packets, headers, link) = SEGMENTED[name]
    payload = len(frame) - link - headers - (8 if name == "v6-big-tcp" else 0)
    found = record(frame, direction=direction, skb=segments(size, count))
    assert sums(found) == (
        packets, packets * headers + payload, packets * (link + headers) + payload
    )  # fmt: skip


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("name", ["v4-tcp-timestamps", "v6-big-tcp", "v4-udp", "gre"])
def test_segments_on_links_without_a_link_layer_header(name, direction):
    frame, size, count, (packets, headers, link) = SEGMENTED[name]
    payload = len(frame) - link - headers - (8 if name == "v6-big-tcp" else 0)
    found = record(frame[link:], direction=direction, skb=segments(size, count), raw=True)
    octets = packets * headers + payload
    assert sums(found) == (packets, octets, octets)


@pytest.mark.parametrize("name", SEGMENTED)
def test_a_segmented_packet_has_the_flow_of_its_headers(name):
    frame, size, count, _ = SEGMENTED[name]
    whole = reference.read(frame)
    assert not isinstance(whole, str)
    found = record(frame, skb=segments(size, count))
    names = ("etype", "proto", "src_port", "dst_port", "vlan_id", "tcp_flags", "ip_ttl", "ip_tos")
    assert [found[each] for each in names] == [getattr(whole, each) for each in names]


def test_a_tunnel_of_another_kind_is_measured_by_the_kernel_on_egress():
    """FOU, say: UDP to any port. ``wire_len`` has the headers of nine more segments."""
    frame = v4(17, udp(ip4(6, tcp_segment())))
    link, headers, count = 14, 28 + 52, 10
    skb = segments(101, count, wire_len=len(frame) + (count - 1) * (link + headers))
    payload = len(frame) - link - headers
    found = record(frame, direction=EGRESS, skb=skb)
    assert sums(found) == (10, 10 * headers + payload, 10 * (link + headers) + payload)


@pytest.mark.parametrize(
    ("frame", "outer"),
    [(v4(50, PAYLOAD), 20), (v4(17, udp(ip4(6, tcp_segment()))), 28), (v4(47, PAYLOAD), 20)],
)
def test_of_an_unknown_tunnel_the_outer_headers_count_with_each_segment(frame, outer):
    """On ingress nothing tells what other headers each segment has."""
    l2_bytes = len(frame) + 9 * (14 + outer)
    assert sums(record(frame, skb=segments(101, 10))) == (10, l2_bytes - 10 * 14, l2_bytes)


def test_segments_without_a_flow_count_as_such():
    mpls = ether(0x8847, bytes(4) + ip4(6, tcp_segment()))
    bench = FlowBench(max_flows=11, mode=Mode.TCX)
    try:
        bench.run(mpls, skb=segments(101, 10))
        counts = bench.counters()
    finally:
        bench.close()
    assert counts["seen_packets"] == 10
    assert counts["no_flow_packets"] == [10, 0, 0, 0, 0]
    assert counts["no_flow_l2_bytes"] == [len(mpls) + 9 * 14, 0, 0, 0, 0]


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("size", [1, 101, 65_534])
@pytest.mark.parametrize(
    "frame",
    [
        v4(17, PAYLOAD, fragment=3),
        v6(44, fragment6(17, PAYLOAD, offset=3)),
        ether(0x86DD, jumbo(44, fragment6(17, PAYLOAD, offset=3))),
        v4(6, tcp_segment(), fragment=3),
    ],
)
def test_segments_that_nobody_can_have_count_within_reason(frame, size, direction):
    """A guest may say that a fragment is to be cut: it has no header that tells how."""
    found = record(frame, direction=direction, skb=segments(size))
    packets, octets, l2_bytes = sums(found)
    assert 1 <= packets <= len(frame)
    assert l2_bytes - octets == packets * 14
    assert len(frame) - 14 <= octets <= l2_bytes <= len(frame) + (packets - 1) * 14


def test_sampling_takes_all_segments_of_a_packet_or_none():
    frame, size, count, (packets, headers, link) = SEGMENTED["v6-big-tcp"]
    l2_bytes = packets * (link + headers) + len(PAYLOAD)
    bench = FlowBench(max_flows=11, mode=Mode.TCX, sampling=3)
    try:
        bench.run(frame, repeat=307, skb=segments(size, count))
        ((flow,),) = (wire(batch) for batch in bench.probe.drain(2))
        counts = bench.counters()
    finally:
        bench.close()
    assert (counts["seen_packets"], counts["seen_l2_bytes"]) == (307 * packets, 307 * l2_bytes)
    left_out = counts["no_flow_packets"][NoFlowReason.SAMPLED_OUT]
    assert flow["packets"] % packets == left_out % packets == 0
    assert flow["packets"] + left_out == 307 * packets
    assert flow["l2_bytes"] == flow["packets"] // packets * l2_bytes
    assert 100 * packets < left_out < 300 * packets


@pytest.mark.parametrize("max_flows", [16, 1])
def test_sums_of_segments_are_the_same_by_every_way(max_flows):
    """Found in the table, inserted, or with a record of their own when it is full."""
    frame, size, count, (packets, headers, link) = SEGMENTED["v4-tcp-timestamps"]
    payload = len(frame) - link - headers
    with Kernel(max_flows=max_flows, mode=Mode.TCX) as kernel:
        for _ in range(3):
            kernel.bench.run(frame, skb=segments(size, count))
        probe = kernel.bench.probe
        rows = [row for batch in probe.drain(2) for row in wire(batch)]
        rows += wire(probe.overflow.read(9))
        rows = [row for row in rows if row["proto"] == 6]
        total = [sum(column) for column in zip(*map(sums, rows), strict=True)]
        lost = kernel.bench.counters()["overflow_lost_packets"]
    assert total == [
        3 * packets, 3 * (packets * headers + payload), 3 * (packets * (link + headers) + payload)
    ]  # fmt: skip
    assert lost == 0


def test_a_packet_of_the_counter_program():
    frame = v4(6, tcp(payload=PAYLOAD), src="192.0.2.7")
    with CounterProbe(max_flows=5) as probe, probe.maps(7, Mode.TCX) as maps:
        run_packet(maps.program, frame, skb=segments(101))
        counts = maps.counters()
        assert (counts.seen.packets, counts.seen.l2_bytes) == (10, 10 * 54 + 1_009)
        assert counts.no_flow["counted"] == counts.seen
        assert list(maps.sources().values()) == [10]

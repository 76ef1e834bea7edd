"""The programs of the TC hook on given packets, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from packets import corpus, reference
from packets.build import tcp, udp, v4, v6
from packets.compare import difference, differences
from packets.kernel import Kernel, wire
from support.programs import FlowBench, SocketBuffer, run_packet

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode

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
    frame: bytes, *, direction: int = INGRESS, skb: SocketBuffer | None = None
) -> dict[str, Any]:
    """The record of one packet, which is all that the program saw."""
    bench = FlowBench(max_flows=11, mode=Mode.TCX, direction=direction)
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


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize(
    ("frame", "size", "expected"),
    [
        # 1,009 octets in segments of 101: ten, of which the last has 100.
        (v4(6, tcp(payload=bytes(1_009))), 101, (10, 10 * 40 + 1_009, 10 * 54 + 1_009)),
        (v4(6, tcp(payload=bytes(1_010))), 101, (10, 10 * 40 + 1_010, 10 * 54 + 1_010)),
        (v4(6, tcp(payload=bytes(1_011))), 101, (11, 11 * 40 + 1_011, 11 * 54 + 1_011)),
        (v6(6, tcp(payload=bytes(1_009))), 101, (10, 10 * 60 + 1_009, 10 * 74 + 1_009)),
        (v4(17, udp(bytes(1_009))), 101, (10, 10 * 28 + 1_009, 10 * 42 + 1_009)),
        (v6(17, udp(bytes(1_009))), 101, (10, 10 * 48 + 1_009, 10 * 62 + 1_009)),
        # One segment.
        (v4(6, tcp(payload=bytes(101))), 101, (1, 141, 155)),
    ],
)
def test_segments_count_as_on_the_wire(frame, size, expected, direction):
    assert sums(record(frame, direction=direction, skb=segments(size))) == expected


def test_a_packet_of_the_counter_program():
    frame = v4(6, tcp(payload=bytes(1_009)), src="192.0.2.7")
    with CounterProbe(max_flows=5) as probe, probe.maps(7, Mode.TCX) as maps:
        run_packet(maps.program, frame, skb=segments(101))
        counts = maps.counters()
        assert (counts.seen.packets, counts.seen.l2_bytes) == (10, 10 * 54 + 1_009)
        assert counts.no_flow["counted"] == counts.seen
        assert list(maps.sources().values()) == [10]

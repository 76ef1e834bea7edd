"""Filters by expression: programs, captures and interfaces accept what tcpdump accepts."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from packets import captures, corpus
from packets.pcap_files import COOKED, RAW, Packet, pcap
from scapy.utils import RawPcapReader
from support import traffic
from support.filter_expressions import EXPRESSIONS
from support.pcap_runs import Runner
from support.programs import FlowBench

from flowstream.filtering.compiling import compile_here
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from flowstream.layouts.constants import NoFlowReason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.net import Wire

LARGEST = 1_600
"""Of more octets, BPF_PROG_TEST_RUN makes fragments."""
SHORTEST = {0x0800: 34, 0x86DD: 54}
"""What BPF_PROG_TEST_RUN takes at the TC hook, by EtherType."""
TRACES = [frame for path in captures.CAPTURES for frame in captures.frames(path)]
FRAMES = [
    frame
    for frame in [*TRACES, *list(corpus.frames().values())[::3]]
    if SHORTEST.get(int.from_bytes(frame[12:14], "big"), 15) <= len(frame) <= LARGEST
]
TAGGED = (0x8100, 0x88A8)


def accepted(capture: Path, expression: str) -> set[int]:
    """The packets that tcpdump accepts, by their times: those of ``traffic.write_capture``."""
    argv = ["tcpdump", "-n", "-r", str(capture), "-w", "-", expression]
    done = subprocess.run(argv, capture_output=True, check=True)
    path = capture.with_suffix(".accepted")
    path.write_bytes(done.stdout)
    with RawPcapReader(str(path)) as reader:
        return {meta.sec * 1000 + meta.usec // 1000 for _, meta in reader}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traffic.write_capture(tmp_path_factory.mktemp("filters") / "all.pcap", FRAMES)


def filtered_out(bench: FlowBench, frames: Sequence[bytes]) -> int:
    for frame in frames:
        bench.run(frame)
    return bench.counters()["no_flow_packets"][NoFlowReason.FILTERED_OUT]


def test_there_are_enough_expressions_and_frames() -> None:
    assert len(set(EXPRESSIONS)) >= 60
    assert len(FRAMES) > 2_000


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_programs_accept_the_packets_that_tcpdump_accepts(capture: Path, expression: str) -> None:
    expected = accepted(capture, expression)
    taken = [frame for number, frame in enumerate(FRAMES) if number in expected]
    left = [frame for number, frame in enumerate(FRAMES) if number not in expected]
    for mode in (Mode.AUTO, Mode.TCX):
        bench = FlowBench(max_flows=16_381, mode=mode, packet_filter=compile_here(expression))
        try:
            # All of the others, and not one of these.
            assert filtered_out(bench, left) == len(left)
            assert filtered_out(bench, taken) == len(left)
            counts = bench.counters()
            assert counts["seen_packets"] == len(FRAMES)
            assert counts["no_flow_l2_bytes"][NoFlowReason.FILTERED_OUT] == sum(map(len, left))
        finally:
            bench.close()


def test_most_expressions_accept_some_packets_and_reject_others(capture: Path) -> None:
    counts = [len(accepted(capture, expression)) for expression in EXPRESSIONS]
    assert sum(0 < count < len(FRAMES) for count in counts) >= 60


@pytest.mark.parametrize(
    "expression", ["tcp port 80", "net 10.0.0.0/8 and not port 53", "vlan and icmp", "less 100"]
)
def test_a_capture_gives_the_flows_of_what_tcpdump_leaves_of_it(
    capture: Path, expression: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runner(tmp_path, capsys)
    left = tmp_path / "left.pcap"
    argv = ["tcpdump", "-n", "-r", str(capture), "-w", str(left), expression]
    subprocess.run(argv, capture_output=True, check=True)
    ours = run(capture, options=["--filter", expression])
    theirs = run(left)
    assert (ours.status, ours.error, theirs.status) == (0, "", 0)
    assert ours.sums() == theirs.sums() != {}
    (counters,) = ours.counters
    assert counters.seen_packets == len(FRAMES)
    (passed,) = theirs.counters
    assert counters.no_flow["filtered_out"].packets == len(FRAMES) - passed.seen_packets > 0
    assert ours.counters[0].host_id != run(capture).counters[0].host_id


@pytest.mark.parametrize(("link", "header"), [(RAW, b""), (COOKED, bytes(14) + b"\x08\0")])
def test_packets_of_other_link_types_are_filtered_too(
    link: int, header: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packets = [frame[14:] for frame in TRACES if frame[12:14] == b"\x08\0" and len(frame) > 34]
    made = [Packet(n * 10**9, header + packet) for n, packet in enumerate(packets[:499])]
    run = Runner(tmp_path, capsys)
    path = run.file(pcap(made, link=link), "others.pcap")
    done = run(path, options=["--filter", "tcp port 80"])
    argv = ["tcpdump", "-n", "-r", str(path), "-w", str(tmp_path / "left.pcap"), "tcp port 80"]
    subprocess.run(argv, capture_output=True, check=True)
    theirs = run(tmp_path / "left.pcap")
    assert done.sums() == theirs.sums() != {}


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC, Mode.TCX])
@pytest.mark.parametrize(
    "expression",
    ["vlan", "vlan 123 and icmp or vlan 50", "vlan and udp", "udp and not vlan", "vlan and vlan",
     "ether[14:2] & 0xfff = 291 or port 53", "ether[12:4] = 0x8100007b", "len > 100"],
)  # fmt: skip
def test_a_tag_beside_the_packet_is_seen_where_it_was(
    wire: Wire, mode: Mode, expression: str, tmp_path: Path
) -> None:
    """A kernel takes the outer tag of a received packet off before the TC hook."""
    # It drops shorter ones there.
    long = [frame for frame in FRAMES if len(frame) >= 20]
    frames = [frame for frame in long if int.from_bytes(frame[12:14], "big") in TAGGED]
    frames += long[::7]
    capture = traffic.write_capture(tmp_path / "tags.pcap", frames)
    expected = accepted(capture, expression)
    assert 0 < len(expected) < len(frames)
    with FlowProbe(max_flows=4_093, packet_filter=compile_here(expression)) as probe:
        with wire.receiver.namespace.entered():
            target = Target.named(wire.receiver.name, mode)
            attachment = attach_here(probe, target)
        with attachment:
            traffic.replay(wire.sender, capture)
            assert traffic.wait_until(lambda: attachment.counters().seen.packets >= len(frames))
            attachment.detach()
            counts = attachment.counters()
    left = [frame for number, frame in enumerate(frames) if number not in expected]
    assert counts.no_flow["filtered_out"].packets == len(left)
    assert counts.no_flow["filtered_out"].l2_bytes == sum(map(len, left))


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.TCX])
def test_sources_are_counted_behind_the_filter(wire: Wire, mode: Mode, tmp_path: Path) -> None:
    frames = FRAMES[:997]
    capture = traffic.write_capture(tmp_path / "some.pcap", frames)
    expected = accepted(capture, "tcp port 80")
    assert 0 < len(expected) < len(frames)
    with CounterProbe(max_flows=4_093, packet_filter=compile_here("tcp port 80")) as probe:
        with wire.receiver.namespace.entered():
            attachment = attach_here(probe, Target.named(wire.receiver.name, mode))
        with attachment:
            traffic.replay(wire.sender, capture)
            assert traffic.wait_until(lambda: attachment.counters().seen.packets >= len(frames))
            counts = attachment.counters()
            assert sum(attachment.maps.sources().values()) == counts.no_flow["counted"].packets
    assert counts.no_flow["filtered_out"].packets == len(frames) - len(expected)

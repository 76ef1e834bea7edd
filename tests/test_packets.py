"""The kernel program's reading of packets against the independent one, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import captures, corpus, reference
from packets.build import EXTENSIONS
from packets.compare import difference, differences
from packets.kernel import END_INTERVAL_OVER, IF_INDEX, Kernel, reading, wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FRAMES = corpus.frames()
LARGEST_FRAME = 2000
REPEATABLE = os.environ.get("CI") == "true"


@pytest.fixture(scope="module")
def one_by_one() -> Iterator[Kernel]:
    """A kernel whose table is full: each packet leaves as its own record."""
    with Kernel(max_flows=1) as kernel:
        yield kernel


@pytest.fixture(scope="module")
def summing() -> Iterator[Kernel]:
    """A kernel that sums packets into flows; drained before each use."""
    with Kernel(max_flows=4099) as kernel:
        yield kernel


def test_corpus_is_as_large_as_it_was() -> None:
    verdicts = [reference.read(frame) for frame in FRAMES.values()]
    assert len(FRAMES) > 2800
    assert verdicts.count("malformed") > 300
    assert verdicts.count("non_ip") > 100


def test_every_packet_reads_as_in_the_reference(one_by_one: Kernel) -> None:
    def compare(name: str) -> str | None:
        return difference(one_by_one.observe(FRAMES[name]), reference.read(FRAMES[name]))

    assert differences(FRAMES, compare) == []


def test_a_difference_is_named_with_its_case_and_field() -> None:
    read = {name: reference.read(FRAMES[name]) for name in ("v4-ttl-255", "arp", "v6-v4-mapped")}
    wrong = dataclasses.replace(read["v4-ttl-255"], ip_ttl=254, packets=2)
    found = {"v4-ttl-255": wrong, "arp": "malformed", "v6-v4-mapped": read["v6-v4-mapped"]}

    def compare(name: str) -> str | None:
        if name not in found:
            raise AssertionError("no such packet")
        return difference(found[name], read[name])

    assert differences([*read, "missing"], compare) == [
        "v4-ttl-255: ip_ttl 254, expected 255; packets 2, expected 1",
        "arp: malformed, expected non_ip",
        "missing: AssertionError no such packet",
    ]


def test_corpus_sums_to_the_flows_of_the_reference() -> None:
    with Kernel(max_flows=4099) as kernel:
        for frame in FRAMES.values():
            kernel.run(frame)
        flows, refused = reference.flows(FRAMES.values())
        assert kernel.refused() == refused
        assert kernel.flows() == flows
        assert kernel.flows() == {}


@pytest.mark.parametrize("max_flows", [4099, 16])
def test_new_flows_are_announced_once_with_their_first_packet(max_flows: int) -> None:
    """Also those that find the table full: their packets are records of their own."""
    first: dict[reference.FlowKey, reference.Reading] = {}
    for frame in FRAMES.values():
        read = reference.read(frame)
        if not isinstance(read, str):
            first.setdefault(read.key, read)
    with Kernel(max_flows=max_flows) as kernel:
        for frame in FRAMES.values():
            kernel.run(frame)
        assert (kernel.bench.counters()["overflow_packets"] > 0) == (max_flows < len(first))
        records = wire(kernel.bench.probe.announcements.read(len(FRAMES)))
    assert {record["record_type"] for record in records} == {2}
    # Packets are counted in the flow's own record, so that nobody counts them twice.
    announced = [
        dataclasses.replace(each, packets=0, bytes=0, l2_bytes=0) for each in first.values()
    ]
    assert [reading(record) for record in records] == announced


def test_record_has_constants_and_times(summing: Kernel) -> None:
    summing.flows()
    before = time.time_ns()
    summing.run(FRAMES["v4-tcp-no-flags"])
    between = time.time_ns()
    summing.run(FRAMES["v4-tcp-every-flag"])
    (batch,) = summing.bench.probe.drain(END_INTERVAL_OVER)
    after = time.time_ns()
    (record,) = wire(batch)
    # The clock that stamps packets and the wall clock are read at different moments.
    slack = 20_000_000
    assert before - slack <= record["time_flow_start_ns"] <= between + slack
    assert between - slack <= record["time_flow_end_ns"] <= record["time_received_ns"] + slack
    # Packets of one tick may share one reading of the clock.
    assert record["time_flow_start_ns"] <= record["time_flow_end_ns"]
    assert record["time_received_ns"] <= after + slack
    expected = {
        "record_type": 1,
        "schema_version": 1,
        "if_index": IF_INDEX,
        "sampling_rate": 1,
        "end_reason": END_INTERVAL_OVER,
        "flow_direction": 0,
        "flow_count": 1,
        "src_net": 32,
        "dst_net": 32,
        "packets": 2,
        "tcp_flags": 0xFF,
    }
    assert {name: record[name] for name in expected} == expected


@pytest.mark.parametrize("capture", captures.CAPTURES, ids=lambda path: path.stem)
def test_capture_sums_to_the_flows_of_the_reference(capture: Path) -> None:
    frames = captures.frames(capture)
    with Kernel(max_flows=4099) as kernel:
        for frame in frames:
            kernel.run(frame)
        flows, refused = reference.flows(frames)
        assert kernel.refused() == refused
        assert kernel.flows() == flows


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame of the corpus with octets replaced, inserted, repeated or cut off."""
    frame = bytearray(draw(st.sampled_from(MODEST)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(frame) - 1))
        octets = draw(st.one_of(st.sampled_from(TELLING), st.binary(min_size=1, max_size=4)))
        end = at if draw(st.booleans()) else at + len(octets)
        frame[at:end] = octets
    shortest = corpus.SHORTEST_FRAME
    if draw(st.booleans()) and len(frame) > shortest:
        del frame[draw(st.integers(shortest, len(frame) - 1)) :]
    return bytes(frame).ljust(shortest, b"\0")


MODEST = [frame for frame in FRAMES.values() if len(frame) <= LARGEST_FRAME]
TELLING = [
    *(bytes([kind]) for kind in EXTENSIONS.values()),
    *(b"\x81\x00", b"\x88\xa8", b"\x08\x00", b"\x86\xdd"),
    *(b"\x00", b"\x01", b"\x06", b"\x11", b"\x3a", b"\x40", b"\x45", b"\x4f", b"\x60", b"\xff"),
]


@settings(max_examples=499, derandomize=REPEATABLE, deadline=None)
@given(frame=mutated())
def test_mutated_frame_reads_as_in_reference(one_by_one: Kernel, frame: bytes) -> None:
    assert one_by_one.observe(frame) == reference.read(frame)


@settings(max_examples=101, derandomize=REPEATABLE, deadline=None)
@given(frames=st.lists(mutated(), min_size=1, max_size=31))
def test_mutated_frames_sum_to_the_flows_of_the_reference(
    summing: Kernel, frames: list[bytes]
) -> None:
    summing.flows()
    for frame in frames:
        summing.run(frame)
    assert summing.flows() == reference.flows(frames)[0]


def test_headers_beyond_the_first_buffer_count_as_cut(one_by_one: Kernel) -> None:
    # XDP hands a program the first buffer of a packet; the sizes are the whole packet's.
    beyond = corpus.beyond_first_buffer()

    def compare(name: str) -> str | None:
        whole = reference.read(beyond[name])
        assert isinstance(whole, reference.Reading)
        assert whole.proto == 6
        cut = dataclasses.replace(whole, proto=60, src_port=0, dst_port=0, tcp_flags=0)
        return difference(one_by_one.observe(beyond[name]), cut)

    assert len(beyond) == 2
    assert differences(beyond, compare) == []


def test_every_octet_of_a_record_is_written() -> None:
    """Ring memory is used again, 64 octets further: what was not written would show."""
    frame = FRAMES["v4-tcp-every-flag"]
    with Kernel(max_flows=65_537) as kernel:
        ring = kernel.bench.probe.announcements
        room = ring.raw.size // ring.raw.stride
        assert ring.raw.size % ring.raw.stride == 64
        for number in range(2 * room):
            if number == room:
                assert len(ring.read(2 * room)) == room
            source = number.to_bytes(4, "big")
            kernel.bench.run(frame[:26] + source + frame[30:])
        records = ring.read(2 * room)
    assert len(records) == room
    for name in ("src_addr", "time_received_ns", "time_flow_start_ns", "time_flow_end_ns"):
        records[name] = 0
    assert len({record.tobytes() for record in records}) == 1
    (record,) = wire(records[:1])
    for name in ("agent_epoch", "seq"):
        assert record[name] == 0
    for name in ("host_id", "sampler_address"):
        assert record[name] == bytes(16)
    assert record["if_name"] == "\0" * 15

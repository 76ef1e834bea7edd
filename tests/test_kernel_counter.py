"""The counter program on given frames, and both programs on the possible faults of attaching."""

from __future__ import annotations

import errno
import gc
import socket
from pathlib import Path

import numpy as np
import pytest
from packets.build import ether, ip4, ip6, udp
from support.net import namespace, veth_pair
from support.programs import run_packet
from support.traffic import wait_until

from flowstream.accounting.amounts import RecordAmount
from flowstream.errors import KernelError
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.libbpf import attached_program
from flowstream.kernel.link import Mode
from flowstream.streams import Stream

IF_INDEX = 7


def frame(source: str) -> bytes:
    return ether(0x0800, ip4(17, udp(), src=source))


def address(source: str) -> int:
    """As it stands in the packet."""
    return int(np.frombuffer(socket.inet_aton(source), np.uint32)[0])


@pytest.fixture
def maps():
    with CounterProbe(max_flows=5) as kernel, kernel.maps(IF_INDEX) as made:
        yield made


def test_packets_per_source(maps):
    for number in range(1, 5):
        run_packet(maps.program, frame(f"192.0.2.{number}"), repeat=number * 11)
    assert maps.sources() == {address(f"192.0.2.{n}"): n * 11 for n in range(1, 5)}
    counts = maps.counters()
    assert counts.seen.packets == counts.no_flow["counted"].packets == 110
    assert (
        counts.seen.l2_bytes == counts.no_flow["counted"].l2_bytes == 110 * len(frame("192.0.2.1"))
    )
    assert counts.losses["source_table_full"] == RecordAmount()


def test_every_packet_is_in_one_place(maps):
    frames = {
        "counted": frame("192.0.2.1"),
        "non_ip": ether(0x0806, bytes(28)),
        "malformed": ether(0x0800, bytes(28)),
    }
    six = ether(0x86DD, ip6(17, udp()))
    for sent in (*frames.values(), six):
        run_packet(maps.program, sent, repeat=3)
    counts = maps.counters()
    assert (counts.no_flow["counted"].packets, counts.no_flow["counted"].l2_bytes) == (
        3,
        3 * len(frames["counted"]),
    )
    assert counts.no_flow["non_ip"].packets == 6
    assert counts.no_flow["non_ip"].l2_bytes == 3 * (len(frames["non_ip"]) + len(six))
    assert (counts.no_flow["malformed"].packets, counts.no_flow["malformed"].l2_bytes) == (
        3,
        3 * len(frames["malformed"]),
    )
    assert counts.seen.packets == 12


def test_a_full_table_is_counted(maps):
    sources = [f"192.0.2.{number}" for number in range(1, 12)]
    for source in sources:
        run_packet(maps.program, frame(source), repeat=3)
    assert len(maps.sources()) == 5
    assert maps.counters().no_flow["counted"].packets == 33
    # Only their source is not remembered: the packets are counted.
    assert maps.counters().losses["source_table_full"] == RecordAmount(18)
    # Those that have a place are counted on.
    run_packet(maps.program, frame(sources[0]), repeat=7)
    assert maps.sources()[address(sources[0])] == 10
    assert maps.counters().losses["source_table_full"] == RecordAmount(18)


def test_a_source_is_announced_once(maps):
    for source in ("192.0.2.1", "192.0.2.7", "192.0.2.1"):
        run_packet(maps.program, frame(source), repeat=3)
    assert maps.ring.stream is Stream.NEW_FLOWS
    records = maps.ring.read(100)
    assert [record.tobytes() for record in records["src_addr"]] == [
        socket.inet_pton(socket.AF_INET6, f"::ffff:192.0.2.{number}") for number in (1, 7)
    ]
    assert set(records["if_index"].tolist()) == {IF_INDEX}
    assert set(records["record_type"].tolist()) == {2}
    assert set(records["packets"].tolist()) == {0}
    assert len(maps.ring.read(100)) == 0


def test_a_source_without_room_for_its_announcement_is_announced_later():
    with CounterProbe(max_flows=131_072) as kernel, kernel.maps(IF_INDEX) as maps:
        room = maps.new_flow_events.size // maps.new_flow_events.stride
        for number in range(room + 3):
            octets = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
            run_packet(maps.program, frame(octets))
        lost = maps.counters().losses["announcement_lost"].records
        assert lost >= 3
        assert len(maps.ring.read(room)) == room + 3 - lost
        assert len(maps.sources()) == room + 3 - lost
        run_packet(maps.program, frame(octets))
        assert maps.ring.read(10)["src_addr"][0, 12:].tobytes() == socket.inet_aton(octets)


def test_sampling_counts_what_it_passes_over():
    with CounterProbe(sampling=3) as kernel, kernel.maps(IF_INDEX) as maps:
        run_packet(maps.program, frame("192.0.2.1"), repeat=30_011)
        counts = maps.counters()
        assert counts.no_flow["counted"].packets + counts.no_flow["sampled_out"].packets == 30_011
        assert counts.no_flow["counted"].packets == pytest.approx(30_011 / 3, rel=0.1)


def test_sources_of_an_interface_are_its_own():
    with CounterProbe(max_flows=5) as kernel, kernel.maps(3) as one, kernel.maps(5) as other:
        run_packet(one.program, frame("192.0.2.1"))
        assert other.sources() == {}
        assert other.counters().seen.packets == 0


@pytest.mark.parametrize("probe_type", [CounterProbe, FlowProbe])
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC, Mode.AUTO])
def test_a_link_detaches_with_its_close(probe_type, mode):
    with namespace() as place, veth_pair(place) as (_, device), place.entered():
        with probe_type(max_flows=101) as kernel:
            attachment = kernel.attach(device.name, mode)
            wanted = Mode.NATIVE if mode is Mode.AUTO else mode
            assert attachment.mode is wanted
            assert attached_program(device.index) == (
                attachment.program.id,
                attachment.program.name,
            )
            attachment.detach()
            attachment.detach()
            # The kernel lets go of a link once its last user is gone.
            assert wait_until(lambda: attached_program(device.index) is None)
            assert attachment.counters().seen.packets == 0
            attachment.close()
            attachment.close()
        assert probe_type(max_flows=101).attach(device.name, mode).mode is wanted


@pytest.mark.parametrize("probe_type", [CounterProbe, FlowProbe])
def test_nothing_stays_open_after_a_refused_attach(probe_type):
    with (
        namespace() as place,
        veth_pair(place) as (_, device),
        place.entered(),
        probe_type(max_flows=101) as first,
        probe_type(max_flows=101) as second,
    ):
        attachment = first.attach(device.name)
        before = open_files()
        with pytest.raises(KernelError, match="is already there") as refused:
            second.attach(device.name)
        assert refused.value.errno == errno.EBUSY
        assert f"(id {attachment.program.id})" in str(refused.value)
        # The exception's frames hold on to what was made.
        del refused
        assert open_files() == before
        attachment.close()


def open_files() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_full_table_of_sources_is_emptied():
    """Spoofed sources must not hide all others for the rest of the run."""
    with CounterProbe(max_flows=5) as probe, probe.maps(IF_INDEX) as maps:
        for number in range(1, 12):
            run_packet(maps.program, frame(f"192.0.2.{number}"), repeat=3)
        assert (maps.known(), len(maps.ring.read(100))) == (5, 5)
        assert maps.forget_when_full()
        assert (maps.known(), maps.sources()) == (0, {})
        # It was full once: nothing more is forgotten.
        run_packet(maps.program, frame("192.0.2.1"))
        assert not maps.forget_when_full()
        run_packet(maps.program, frame("198.51.100.7"), repeat=11)
        announced = maps.ring.read(100)["src_addr"][:, 12:]
        assert {row.tobytes() for row in announced} == {
            socket.inet_aton("192.0.2.1"), socket.inet_aton("198.51.100.7"),
        }  # fmt: skip
        assert maps.sources() == {address("192.0.2.1"): 1, address("198.51.100.7"): 11}
        counts = maps.counters()
        assert counts.no_flow["counted"].packets == counts.seen.packets == 33 + 1 + 11
        assert counts.losses["source_table_full"] == RecordAmount(18)

"""Links without a link-layer header: packets begin with their IP header."""

from __future__ import annotations

import dataclasses
import os
import struct
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import corpus, reference
from packets.build import ether, ip4, ip6, tcp, udp
from packets.compare import difference, differences
from packets.kernel import END_INTERVAL_OVER, ETHERNET, Kernel, as_flows
from support import traffic
from support.net import namespace
from support.tun import IFF_NO_PI, IFF_VNET_HDR, tun_device

from flowstream.accounting.amounts import Amount
from flowstream.errors import KernelError
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from support.net import Wire
    from support.tun import Tun

    from flowstream.kernel.flow import FlowAttachment

SHORTEST_RUN = 14
"""BPF_PROG_TEST_RUN refuses shorter packets."""
LARGEST = 65_535
MAX_FLOWS = 4_099
REPEATABLE = os.environ.get("CI") == "true"
FRAMES = corpus.frames()
PACKETS = {
    name: frame[ETHERNET:]
    for name, frame in FRAMES.items()
    if SHORTEST_RUN <= len(frame) - ETHERNET <= LARGEST
}


@pytest.fixture(scope="module")
def one_by_one() -> Iterator[Kernel]:
    """A kernel whose table is full: each packet leaves as its own record."""
    with Kernel(max_flows=1, raw=True) as kernel:
        yield kernel


@pytest.fixture
def tun() -> Iterator[Tun]:
    with namespace() as place, tun_device(place) as device:
        yield device


def attached(probe: FlowProbe, device: Tun, mode: Mode = Mode.AUTO) -> FlowAttachment:
    with device.interface.namespace.entered():
        target = Target.named(device.interface.name, mode)
        return attach_here(probe, dataclasses.replace(target, raw=True))


def test_corpus_has_ip_packets_and_others() -> None:
    verdicts = [reference.read(packet, raw=True) for packet in PACKETS.values()]
    assert len(PACKETS) > 2_400
    assert verdicts.count("malformed") > 150
    assert verdicts.count("non_ip") > 200


def test_every_packet_reads_as_in_the_reference(one_by_one: Kernel) -> None:
    def compare(name: str) -> str | None:
        expected = reference.read(PACKETS[name], raw=True)
        return difference(one_by_one.observe(PACKETS[name]), expected)

    assert differences(PACKETS, compare) == []


def test_each_version_of_ip_and_all_that_are_none(one_by_one: Kernel) -> None:
    found = {
        version: one_by_one.observe(bytes([version << 4 | 5]) + bytes(59)) for version in range(16)
    }
    assert found.pop(4) == reference.Reading(
        etype=0x0800, proto=0, src_addr=bytes(10) + b"\xff\xff" + bytes(4),
        dst_addr=bytes(10) + b"\xff\xff" + bytes(4), ip_tos=0, ip_ttl=0, vlan_id=0,
        src_mac=bytes(6), dst_mac=bytes(6), bytes=60, l2_bytes=60,
    )  # fmt: skip
    assert found.pop(6) == reference.Reading(
        etype=0x86DD, proto=0, src_addr=bytes(16), dst_addr=bytes(16), ip_tos=0x50, ip_ttl=0,
        vlan_id=0, src_mac=bytes(6), dst_mac=bytes(6), bytes=60, l2_bytes=60,
    )  # fmt: skip
    assert set(found.values()) == {"non_ip"}


@settings(max_examples=499, derandomize=REPEATABLE, deadline=None)
@given(packet=st.binary(min_size=SHORTEST_RUN, max_size=300), version=st.sampled_from([4, 6]))
def test_any_octets_behind_a_version_read_as_in_the_reference(
    one_by_one: Kernel, packet: bytes, version: int
) -> None:
    packet = bytes([version << 4 | packet[0] & 15]) + packet[1:]
    assert one_by_one.observe(packet) == reference.read(packet, raw=True)


def test_flows_are_those_of_ethernet_but_for_macs_and_frame_octets() -> None:
    same = [
        name
        for name, packet in PACKETS.items()
        if FRAMES[name][12:14] == {4: b"\x08\x00", 6: b"\x86\xdd"}.get(packet[0] >> 4)
    ]
    assert len(same) > 2_000
    with Kernel(MAX_FLOWS) as ethernet, Kernel(MAX_FLOWS, raw=True) as raw:
        for name in same:
            ethernet.run(FRAMES[name])
            raw.run(PACKETS[name])
        assert raw.refused() == ethernet.refused()
        flows = ethernet.flows()
        assert raw.flows() == {key: without_ethernet(flow) for key, flow in flows.items()}


@pytest.mark.parametrize("flags", [IFF_NO_PI, 0])
def test_corpus_through_a_tun_device_gives_the_flows_of_the_reference(flags: int) -> None:
    """Without IFF_NO_PI the driver takes anything, also of no octets, under an EtherType."""
    packets = [frame[ETHERNET:] for frame in FRAMES.values() if len(frame) - ETHERNET <= LARGEST]
    if flags & IFF_NO_PI:
        # The driver refuses others.
        packets = [packet for packet in packets if packet[:1] and packet[0] >> 4 in (4, 6)]
    with namespace() as place, tun_device(place, flags=flags) as device:
        found = passed(device, packets, b"" if flags else b"\0\0\x08\0")
    flows, refused = reference.flows(packets, raw=True)
    assert found == (flows, {"non_ip": 0, "malformed": 0} | refused)
    assert (b"" in packets) == (not flags)


def passed(
    device: Tun, packets: Iterable[bytes], before: bytes = b""
) -> tuple[dict[reference.FlowKey, reference.Reading], dict[str, int]]:
    """Let the device receive packets; their flows, and the counts of those without a flow."""
    sent = octets = 0
    with FlowProbe(max_flows=MAX_FLOWS) as probe, attached(probe, device) as attachment:
        assert attachment.mode is Mode.GENERIC
        for packet in packets:
            device.receive(before + packet)
            sent, octets = sent + 1, octets + len(packet)
        assert traffic.wait_until(lambda: attachment.counters().seen.packets >= sent)
        attachment.detach()
        counts = attachment.counters()
        flows = as_flows(probe.drain(END_INTERVAL_OVER))
    assert (counts.seen.packets, counts.seen.l2_bytes) == (sent, octets)
    return flows, {name: counts.no_flow[name].packets for name in ("non_ip", "malformed")}


def test_the_same_packets_through_veth_and_tun(wire: Wire, tun: Tun, tmp_path: Path) -> None:
    packets = [
        *(ip4(17, udp(b"\x5a" * length)) for length in (0, 11, 1400)),
        ip6(0, bytes([6, 0]) + bytes(6) + tcp()),
        ip6(6, tcp(0x10, b"abc")),
        ip4(6, tcp(0x02), options=b"\x01" * 8),
    ]
    frames = [ether(0x0800 if packet[0] >> 4 == 4 else 0x86DD, packet) for packet in packets]
    through_tun, _ = passed(tun, packets)
    with FlowProbe(max_flows=MAX_FLOWS) as probe:
        with wire.receiver.namespace.entered():
            attachment = probe.attach(wire.receiver.name)
        with attachment:
            traffic.replay(wire.sender, traffic.write_capture(tmp_path / "frames.pcap", frames))
            assert traffic.wait_until(lambda: attachment.counters().seen.packets >= len(packets))
        through_veth = as_flows(probe.drain(END_INTERVAL_OVER))
    assert len(through_veth) == 3
    assert through_tun == {key: without_ethernet(flow) for key, flow in through_veth.items()}


def without_ethernet(flow: reference.Reading) -> reference.Reading:
    """The same packets on a link without a link-layer header."""
    return dataclasses.replace(
        flow,
        src_mac=bytes(6),
        dst_mac=bytes(6),
        l2_bytes=flow.l2_bytes - ETHERNET * flow.packets,
    )


def test_a_segment_that_is_still_to_be_cut_counts_with_all_its_octets() -> None:
    """A virtual machine's, by virtio_net_hdr: NEEDS_CSUM, TCPV4 (linux/virtio_net.h)."""
    payload = bytes(29_989)
    segment = ip4(6, tcp(0x10, payload))
    header = struct.pack("=BBHHHH", 1, 1, 40, 1_448, 20, 16)
    with namespace() as place, tun_device(place, flags=IFF_NO_PI | IFF_VNET_HDR) as device:
        flows, _ = passed(device, [segment], header)
    (flow,) = flows.values()
    assert (flow.packets, flow.bytes, flow.l2_bytes) == (1, 30_029, 30_029)


def test_sources_are_counted_without_a_link_layer_header(tun: Tun) -> None:
    with CounterProbe(max_flows=MAX_FLOWS) as probe, tun.interface.namespace.entered():
        target = dataclasses.replace(Target.named(tun.interface.name), raw=True)
        with attach_here(probe, target) as attachment:
            for packet in (ip4(17, udp()), ip4(17, udp()), ip6(6, tcp()), b"\x45", b"\x60"):
                tun.receive(packet)
            counts = attachment.counters()
            source = int.from_bytes(bytes((10, 0, 0, 1)), sys.byteorder)
            assert attachment.maps.sources() == {source: 2}
    assert counts.seen == Amount(5, 2 * 33 + 60 + 2)
    assert counts.no_flow["counted"] == Amount(2, 66)
    assert counts.no_flow["non_ip"] == Amount(1, 60)
    assert counts.no_flow["malformed"] == Amount(2, 2)


def test_a_tun_device_has_no_native_mode(tun: Tun) -> None:
    with (
        FlowProbe(max_flows=MAX_FLOWS) as probe,
        pytest.raises(KernelError, match=r"no native XDP .*: use --mode generic"),
    ):
        attached(probe, tun, Mode.NATIVE)

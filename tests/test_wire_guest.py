"""Devices of virtual machines and tunnels: packets that the kernel still has to cut."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from packets import reference, segments
from packets.compare import differing
from packets.kernel import END_INTERVAL_OVER, as_flows
from support.conversations import UDP_SEGMENT
from support.hosts import hosts
from support.net import namespace
from support.packet_socket import Capture, Sender
from support.traffic import wait_until
from support.tun import tap_device, tun_device

from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.hosts import Hosts
    from support.tun import Tun

GUEST = bytes.fromhex("020000000033")


@pytest.fixture
def between() -> Iterator[Hosts]:
    with hosts() as made:
        yield made


@pytest.fixture
def guest(between: Hosts) -> Iterator[Tun]:
    """A guest on the bridge between the hosts."""
    middle = between.outer.namespace
    with tap_device(middle) as tap:
        middle.run("ip", "link", "set", tap.interface.name, "master", "middle")
        yield tap


def check(guest: Tun, direction: int, send: Callable[[], None], wire: Callable[[], list[bytes]]):
    """Observe the guest's device while packets are sent; compare with those on the wire."""
    frames: list[bytes] = []
    packets = sum(each.packets for each in segments.frames(GUEST).values())

    def arrived() -> bool:
        frames.extend(wire())
        return len(frames) >= packets

    device = guest.interface
    with FlowProbe(max_flows=97) as probe:
        with device.namespace.entered():
            attachment = probe.attach(device.name, Mode.TCX, direction)
        with attachment:
            send()
            assert wait_until(arrived), len(frames)
            attachment.detach()
            seen = attachment.counters().seen
        found = as_flows(probe.drain(END_INTERVAL_OVER))
    expected, refused = reference.flows(frames)
    assert "\n".join(differing(found, expected)) == ""
    assert (seen, refused) == (Amount(len(frames), sum(map(len, frames))), {})
    assert seen.packets == packets


def test_segments_that_a_guest_sends(between, guest):
    def send() -> None:
        for segment in segments.frames(GUEST).values():
            guest.receive(segment.frame)

    with Capture(between.far.device) as wire:
        check(guest, INGRESS, send, wire.frames)


def test_segments_for_a_guest_that_takes_single_packets_alone(between, guest):
    def send() -> None:
        with Sender(between.observed.device, vnet_hdr=True) as sender:
            for segment in segments.frames(between.observed.mac_octets).values():
                sender.send(segment.frame)

    check(guest, EGRESS, send, lambda: [each[len(segments.NOT_CUT) :] for each in guest.sent()])


def test_segments_into_a_tunnel_of_ip_packets():
    """Its packets have no link-layer header; its other side takes single ones alone."""
    with namespace() as place, tun_device(place) as tun, FlowProbe(max_flows=97) as probe:
        place.run("ip", "address", "add", "10.81.0.1/24", "dev", tun.interface.name)
        with place.entered():
            target = Target.named(tun.interface.name, Mode.TCX, direction=EGRESS)
            attachment = attach_here(probe, replace(target, raw=True))
        with attachment:
            with place.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1_000)
                for size in (10_001, 5_000, 1_001, 1_000):
                    assert sender.sendto(bytes(size), ("10.81.0.2", 9)) == size
            packets: list[bytes] = []
            assert wait_until(lambda: bool(packets.extend(tun.sent()) or len(packets) >= 19))
            attachment.detach()
            seen = attachment.counters().seen
        found = as_flows(probe.drain(END_INTERVAL_OVER))
    expected, refused = reference.flows(packets, raw=True)
    assert "\n".join(differing(found, expected)) == ""
    assert (seen, refused) == (Amount(19, sum(map(len, packets))), {})

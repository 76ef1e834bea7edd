"""What is cut in a tunnel, or joined: both hooks of TC against XDP, which sees single packets.

Packets are cut behind the hook of egress, cross the pair one by one, where XDP sees them,
and are joined again (GRO) before the hook of ingress.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from packets.kernel import END_INTERVAL_OVER, wire
from support.conversations import UDP_SEGMENT
from support.net import Namespace, namespace
from support.traffic import wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

OCTETS = 3_000_017
PORT = 5_000
SO_TXREHASH = 74  # asm-generic/socket.h
IN_FLIGHT = 1 << 17
"""Octets; a veth that has an XDP program drops what is beyond 256 packets."""
DATAGRAM = 1_201
DATAGRAMS, OF_EACH_SEND = 11, 25
NOT_BEFORE_THE_HOOK = ("tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation")


class Tunnel(NamedTuple):
    """A VXLAN interface "tunnel" at both ends of a pair, and what goes through it."""

    outer: str
    inner: str
    port: int
    checksum: bool
    udp: bool


TUNNELS = {
    "v4-in-v4": Tunnel("10.9.0.", "10.8.0.", 4789, checksum=False, udp=False),
    "v6-in-v4": Tunnel("10.9.0.", "fd08::", 4789, checksum=False, udp=False),
    "v4-in-v6": Tunnel("fd09::", "10.8.0.", 4789, checksum=False, udp=False),
    "checksums": Tunnel("10.9.0.", "10.8.0.", 4789, checksum=True, udp=False),
    "port-of-linux": Tunnel("10.9.0.", "10.8.0.", 8472, checksum=False, udp=False),
    "udp-in-v4": Tunnel("10.9.0.", "10.8.0.", 4789, checksum=False, udp=True),
    "udp-in-v6": Tunnel("fd09::", "fd08::", 4789, checksum=False, udp=True),
}


@contextlib.contextmanager
def built(tunnel: Tunnel) -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts, numbers 1 and 2, with devices "near" and "far"."""
    with namespace() as here, namespace() as there:
        here.run(
            *("ip", "link", "add", "near", "type", "veth"),
            *("peer", "name", "far", "netns", there.name),
        )
        for place, device, number in ((here, "near", 1), (there, "far", 2)):
            off = [word for feature in NOT_BEFORE_THE_HOOK for word in (feature, "off")]
            place.run("ethtool", "-K", device, *off, "gro", "on")
            address(place, device, f"{tunnel.outer}{number}")
            place.run("ip", "link", "set", device, "mtu", "1600", "up")
            place.run(
                *("ip", "link", "add", "tunnel", "type", "vxlan", "id", "42"),
                *("local", f"{tunnel.outer}{number}", "remote", f"{tunnel.outer}{3 - number}"),
                *("dstport", f"{tunnel.port}", "udpcsum" if tunnel.checksum else "noudpcsum"),
            )
            address(place, "tunnel", f"{tunnel.inner}{number}")
            place.run("ip", "link", "set", "tunnel", "mtu", "1450", "up")
        yield here, there


def address(place: Namespace, device: str, value: str) -> None:
    if ":" not in value:
        place.run("ip", "address", "add", f"{value}/24", "dev", device)
        return
    place.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
    place.run("ip", "-6", "address", "add", f"{value}/64", "dev", device, "nodad")


def send(sender: socket.socket, where: tuple[str, int]) -> None:
    sender.connect(where)
    sender.sendall(bytes(OCTETS))


def transfer(here: Namespace, there: Namespace, tunnel: Tunnel) -> None:
    """Send octets through the tunnel; they have arrived when this returns."""
    where = (f"{tunnel.inner}2", PORT)
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    kind = socket.SOCK_DGRAM if tunnel.udp else socket.SOCK_STREAM
    with there.entered():
        receiver = socket.socket(family, kind)
    with here.entered():
        sender = socket.socket(family, kind)
    with receiver, sender:
        receiver.bind(where)
        for each in (receiver, sender):
            each.settimeout(60)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, IN_FLIGHT)
        if tunnel.udp:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, DATAGRAM)
            sender.connect(where)
            for _ in range(DATAGRAMS):
                sender.send(bytes(DATAGRAM * OF_EACH_SEND))
                for _ in range(OF_EACH_SEND):
                    receiver.recv(DATAGRAM)
            return
        # The tunnel's source port comes of it: a flow stays one when a packet is sent again.
        sender.setsockopt(socket.SOL_SOCKET, SO_TXREHASH, 0)
        receiver.listen()
        sending = threading.Thread(target=send, args=(sender, where))
        sending.start()
        connection, _ = receiver.accept()
        with connection:
            left = OCTETS
            while left:
                left -= len(connection.recv(1 << 20))
        sending.join()


class Flows:
    """Packets, octets of IP and of frames of each flow from the first host through the tunnel."""

    def __init__(self, probe: FlowProbe, port: int) -> None:
        self._probe, self._port = probe, port
        self._sums: dict[tuple[Any, ...], Counter[str]] = {}

    def now(self) -> dict[tuple[Any, ...], Counter[str]]:
        """Sums of all records so far, by source address and port."""
        for batch in self._probe.drain(END_INTERVAL_OVER):
            for record in wire(batch):
                if record["dst_port"] == self._port and record["src_addr"][-1] == 1:
                    flow = self._sums.setdefault(
                        (record["src_addr"], record["src_port"]), Counter()
                    )
                    flow.update({name: record[name] for name in ("packets", "bytes", "l2_bytes")})
        return self._sums

    def of(self, flow: tuple[Any, ...]) -> Counter[str]:
        """Sums of one flow so far."""
        return self.now().get(flow, Counter())


@pytest.mark.parametrize("name", TUNNELS)
def test_segments_in_a_tunnel_count_as_on_the_wire(name):
    tunnel = TUNNELS[name]
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(built(tunnel))
        out, single, joined = (stack.enter_context(FlowProbe(max_flows=101)) for _ in range(3))
        with there.entered():
            single.attach("far", Mode.NATIVE)
            joined.attach("far", Mode.TCX, INGRESS)
        with here.entered():
            out.attach("near", Mode.TCX, EGRESS)
        transfer(here, there, tunnel)
        sent, crossed, received = (Flows(each, tunnel.port) for each in (out, single, joined))
        # A host's own IPv6 messages may pass before all programs are there.
        flows = crossed.now()
        largest = max(flows, key=lambda flow: flows[flow]["packets"])
        # The last packets may be on their way.
        wait_until(lambda: sent.of(largest) == crossed.of(largest) == received.of(largest))
        assert sent.of(largest) == crossed.of(largest)
        assert received.of(largest) == crossed.of(largest)
        expected = DATAGRAMS * OF_EACH_SEND if tunnel.udp else OCTETS // 1_450
        assert crossed.of(largest)["packets"] >= expected

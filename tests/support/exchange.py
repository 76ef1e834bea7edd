"""Everything that two hosts exchange in one run, part by part, with what was on the wire."""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from packets import segments
from packets.build import ether, ip4, tag, udp

from flowstream.closing import Closing
from support import conversations as talk
from support.packet_socket import Capture, Sender
from support.tagging import C_TAG, S_TAG, congested, tagged
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from support.hosts import Host, Hosts

    Conversation = Callable[[Host, Host, int, int], None]
    """Of a sender with a receiver, by an IP version and a port."""

_ROUTER_ALERT = (socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")
# RFC 8200, 8 and 16 octets: PadN, and an option for experiments (RFC 4727) that is skipped.
_HOP_BY_HOP = (socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, b"\0\0\1\4" + bytes(4))
_DESTINATION = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\0\1\x1e\x0c" + bytes(12))
_SMALL = (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)
"""The smallest segments."""

_SEGMENTS = partial(talk.datagrams, sizes=(10_001, 5_000, 999), segment=1_000, joined=True)
_FRAGMENTS = partial(talk.datagrams, sizes=(10_007, 5_003))
CUT: Final[Mapping[str, Conversation]] = {
    "bulk": talk.bulk,
    "urgent": talk.urgent_then_reset,
    "small": partial(talk.bulk, octets=9_001, options=[_SMALL]),
    "segments": _SEGMENTS,
}
"""What the observed host's device has in larger pieces than the wire."""
WHOLE: Final[Mapping[str, Conversation]] = {
    "chatter": talk.chatter,
    "refused": talk.refused,
    "datagrams": partial(talk.datagrams, sizes=(1, 2, 1_009, 18, 22)),
    "fragments": _FRAGMENTS,
    "echo": partial(talk.echo, size=3_001),
}
BIG: Final[Mapping[str, Conversation]] = {"big": partial(talk.bulk, octets=1_000_003)}
"""For devices that take segments of more than 64 KiB."""
TAGS: Final = {
    "vlan": ((C_TAG, 0x2064),),
    "service vlan": ((S_TAG, 0x0FFF),),
    "priority": ((C_TAG, 0xA000),),
    "two tags": ((C_TAG, 0x3123), (S_TAG, 0x0070)),
}
"""The innermost first."""


@dataclass(frozen=True, slots=True)
class Part:
    """A conversation: its packets as the observed host's device has them, and on the wire.

    ``port`` is one end's, 0 where there is none.
    """

    port: int
    device: list[bytes]
    wire: list[bytes]


class Exchange(Closing):
    """Conversations between two hosts, each with a name and a port of its own."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.parts: dict[str, Part] = {}
        self._ports = itertools.count(7_001, 2)
        self._device, self._wire = Capture(hosts.observed.device), Capture(hosts.far.device)

    def hold(self) -> None:
        """Let the hosts exchange everything; takes about four seconds."""
        self.add_all("", CUT, WHOLE)
        for name, tags in TAGS.items():
            with tagged(self.hosts, *tags):
                self.add_all(f"{name} ", CUT, {"fragments": _FRAGMENTS})
        self._with_options()
        self._with_congestion()
        self._with_other_joining()
        self._frames()
        self.hosts.take_big_segments()
        self.add_all("", BIG)
        with tagged(self.hosts, *TAGS["vlan"]):
            self.add_all("vlan ", BIG)

    def _add(self, name: str, says: Callable[[int], None]) -> None:
        port = next(self._ports)
        says(port)
        assert talk.settled(*self.hosts[:2])
        # What is still on its way, after a reset, is before them.
        for ends in (self.hosts[:2], self.hosts[1::-1]):
            talk.datagrams(*ends, 4, port + 1, [1])
        self._note(name, Part(port, self._device.frames(), self._wire.frames()))

    def add_all(
        self,
        prefix: str,
        *conversations: Mapping[str, Conversation],
        versions: Sequence[int] = (4, 6),
    ) -> None:
        """Each conversation with the IP versions, both ways."""
        ways = {"out": self.hosts[:2], "in": self.hosts[1::-1]}
        says = [each for mapping in conversations for each in mapping.items()]
        for (name, say), version, way in itertools.product(says, versions, ways):
            source, sink = ways[way]
            self._add(f"{prefix}{name} {version} {way}", partial(say, source, sink, version))

    def _note(self, name: str, part: Part) -> None:
        assert name not in self.parts
        self.parts[name] = part

    def _with_options(self) -> None:
        for version, options in ((4, [_ROUTER_ALERT]), (6, [_HOP_BY_HOP, _DESTINATION])):
            says = {
                "bulk": partial(talk.bulk, options=options),
                "segments": partial(_SEGMENTS, options=options),
                "fragments": partial(_FRAGMENTS, options=options),
            }
            self.add_all("options ", says, versions=[version])

    def _with_congestion(self) -> None:
        for switch in (1, 0):
            for host in self.hosts[:2]:
                host.run("sysctl", "-qw", f"net.ipv4.tcp_ecn={switch}")
            if switch:
                with congested(self.hosts.outer), congested(self.hosts.inner):
                    self.add_all("", {"congested": talk.bulk})

    def _with_other_joining(self) -> None:
        """Packets may also be joined as a list, and datagrams that no socket asks for."""
        plain = {"segments": partial(talk.datagrams, sizes=(10_001, 5_000), segment=1_000)}
        self.hosts.observed.offload("rx-gro-list", "on")
        self.add_all("list of ", plain, {"bulk": talk.bulk})
        self.hosts.observed.offload("rx-gro-list", "off", "rx-udp-gro-forwarding", "on")
        self._frames("forwarded ")
        self.hosts.observed.offload("rx-udp-gro-forwarding", "off")

    def _frames(self, prefix: str = "") -> None:
        """Frames of packet sockets: segments, which the far host's device cuts, and no IP."""
        for way, host in (("out", self.hosts.observed), ("in", self.hosts.far)):
            for name, (segment, headers) in segments.frames(host.mac_octets).items():
                self._add_frames(f"{prefix}untrusted {name} {way}", host, [segment], headers)
            frame = partial(ether, dst=segments.NOBODY, src=host.mac_octets)
            frames = [
                frame(0x0806, bytes(28)),
                frame(0x88CC, bytes(46)),
                frame(0x0800, ip4(17, udp(), version=5)),
                frame(0x86DD, bytes(39)),
                frame(0x88A8, tag(7, 0x8100, tag(8, 0x8100, bytes(30)))),
            ]
            whole = [segments.NOT_CUT + each for each in frames]
            self._add_frames(f"{prefix}no flow {way}", host, whole)

    def _add_frames(self, name: str, host: Host, frames: list[bytes], headers: int = 0) -> None:
        """Send frames that no host takes; each packet of them has so many octets of headers."""
        octets = sum(len(frame) - len(segments.NOT_CUT) - headers for frame in frames)
        device: list[bytes] = []
        wire: list[bytes] = []

        def arrived() -> bool:
            device.extend(self._device.frames())
            wire.extend(self._wire.frames())
            return all(
                sum(len(packet) - headers for packet in came) == octets for came in (device, wire)
            )

        with Sender(host.device, vnet_hdr=True) as sender:
            for frame in frames:
                sender.send(frame)
        assert wait_until(arrived), name
        self._note(name, Part(0, device, wire))

    def close(self) -> None:
        """Stop capturing; harmless twice."""
        self._device.close()
        self._wire.close()

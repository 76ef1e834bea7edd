"""A second reading of packets, to compare the kernel program with.

Written from docs/records.md ("How a packet is read") and the RFCs, on scapy's
dissection of fixed headers; it shares no code with the program under test.
Scapy sees exactly one header at a time: given more, it guesses upper layers,
and looks beyond lengths that lie.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

if TYPE_CHECKING:
    from collections.abc import Iterable

ETH_IPV4 = 0x0800
ETH_IPV6 = 0x86DD
VLAN_TAGS = (0x8100, 0x88A8)
MAX_TAGS = 2

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDP_LITE = 1, 6, 17, 33, 58, 132, 136
WITH_TYPE_AND_CODE = (ICMP, ICMPV6)
WITH_PORTS = (TCP, UDP, DCCP, SCTP, UDP_LITE)
TCP_FLAGS_AT = 13

HOP_BY_HOP, ROUTING, FRAGMENT, AH, DEST_OPTIONS = 0, 43, 44, 51, 60
MOBILITY, HIP, SHIM6 = 135, 139, 140
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AH, DEST_OPTIONS, MOBILITY, HIP, SHIM6)
MAX_EXTENSIONS = 8

Refusal = Literal["non_ip", "malformed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a frame says, under the names and units of the published flow record.

    Addresses are 16 bytes (IPv4 is v4-mapped), MAC addresses 6 bytes.
    """

    etype: int
    proto: int
    src_addr: bytes
    dst_addr: bytes
    src_port: int = 0
    dst_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    tcp_flags: int = 0
    ip_tos: int
    ip_ttl: int
    vlan_id: int
    src_mac: bytes
    dst_mac: bytes
    packets: int = 1
    bytes: int
    l2_bytes: int

    @property
    def key(self) -> FlowKey:
        """The flow that the frame belongs to."""
        return FlowKey(*(getattr(self, name) for name in FlowKey._fields))


class FlowKey(NamedTuple):
    """What two packets of one flow and interface have in common."""

    etype: int
    vlan_id: int
    src_addr: bytes
    dst_addr: bytes
    proto: int
    src_port: int
    dst_port: int
    icmp_type: int
    icmp_code: int


class _RefusedError(Exception):
    """The frame gives no flow."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


class _Upper(NamedTuple):
    """What follows the network header: ``octets`` is None behind a later fragment's header."""

    proto: int
    octets: bytes | None


def read(packet: bytes, *, raw: bool = False) -> Reading | Refusal:
    """Read one packet: a frame, from its Ethernet header to its end without FCS.

    ``raw``: it begins with its IP header.
    """
    try:
        return _read_raw(packet) if raw else _read(packet)
    except _RefusedError as refusal:
        return refusal.reason


def flows(
    packets: Iterable[bytes], *, raw: bool = False
) -> tuple[dict[FlowKey, Reading], Counter[str]]:
    """Sum packets, in order, into flows and into counts of the reasons for having none."""
    table: dict[FlowKey, Reading] = {}
    refused: Counter[str] = Counter()
    for packet in packets:
        reading = read(packet, raw=raw)
        if isinstance(reading, str):
            refused[reading] += 1
        elif reading.key in table:
            table[reading.key] = _joined(table[reading.key], reading)
        else:
            table[reading.key] = reading
    return table, refused


def _joined(flow: Reading, reading: Reading) -> Reading:
    return dataclasses.replace(
        flow,
        packets=flow.packets + 1,
        bytes=flow.bytes + reading.bytes,
        l2_bytes=flow.l2_bytes + reading.l2_bytes,
        tcp_flags=flow.tcp_flags | reading.tcp_flags,
        ip_ttl=min(flow.ip_ttl, reading.ip_ttl),
    )


def _read(frame: bytes) -> Reading:
    etype, vlan_id, packet = _unframe(frame)
    return Reading(
        etype=etype,
        vlan_id=vlan_id,
        dst_mac=frame[0:6],
        src_mac=frame[6:12],
        l2_bytes=len(frame),
        **_network(etype, packet),
    )


def _read_raw(packet: bytes) -> Reading:
    if not packet:
        raise _RefusedError("malformed")
    etype = {4: ETH_IPV4, 6: ETH_IPV6}.get(packet[0] >> 4, 0)
    return Reading(
        etype=etype,
        vlan_id=0,
        dst_mac=bytes(6),
        src_mac=bytes(6),
        l2_bytes=len(packet),
        **_network(etype, packet),
    )


def _network(etype: int, packet: bytes) -> dict[str, Any]:
    said: dict[str, Any]
    if etype == ETH_IPV4:
        ip, upper = _ipv4(packet)
        said = {
            "src_addr": b"\0" * 10 + b"\xff\xff" + ipaddress.IPv4Address(ip.src).packed,
            "dst_addr": b"\0" * 10 + b"\xff\xff" + ipaddress.IPv4Address(ip.dst).packed,
            "ip_tos": ip.tos,
            "ip_ttl": ip.ttl,
            # 0: a segment that is still to be cut. The packet is all that is there.
            "bytes": ip.len or len(packet),
        }
    elif etype == ETH_IPV6:
        ip, upper = _ipv6(packet)
        said = {
            "src_addr": ipaddress.IPv6Address(ip.src).packed,
            "dst_addr": ipaddress.IPv6Address(ip.dst).packed,
            "ip_tos": ip.tc,
            "ip_ttl": ip.hlim,
            "bytes": 40 + ip.plen if ip.plen else len(packet),
        }
    else:
        raise _RefusedError("non_ip")
    return said | {"proto": upper.proto} | _transport(upper)


def _unframe(frame: bytes) -> tuple[int, int, bytes]:
    """Return EtherType (or 802.3 length), outer VLAN id and what follows."""
    if len(frame) < 14:
        raise _RefusedError("malformed")
    ether, rest = Ether(frame[:14]), frame[14:]
    # Scapy makes a length field of a small EtherType.
    etype = ether.type if "type" in ether.fields else ether.len
    vlan_ids: list[int] = []
    while etype in VLAN_TAGS and len(vlan_ids) < MAX_TAGS:
        if len(rest) < 4:
            raise _RefusedError("malformed")
        tag, rest = Dot1Q(rest[:4]), rest[4:]
        etype = tag.type
        vlan_ids.append(tag.vlan)
    return etype, vlan_ids[0] if vlan_ids else 0, rest


def _ipv4(packet: bytes) -> tuple[IP, _Upper]:
    if len(packet) < 20:
        raise _RefusedError("malformed")
    ip = IP(packet[:20])
    octets = ip.ihl * 4
    if ip.version != 4 or octets < 20 or octets > len(packet):
        raise _RefusedError("malformed")
    return ip, _Upper(ip.proto, packet[octets:] if ip.frag == 0 else None)


def _ipv6(packet: bytes) -> tuple[IPv6, _Upper]:
    if len(packet) < 40:
        raise _RefusedError("malformed")
    ip = IPv6(packet[:40])
    if ip.version != 6:
        raise _RefusedError("malformed")
    return ip, _behind_extensions(ip.nh, packet[40:])


def _behind_extensions(proto: int, rest: bytes) -> _Upper:
    for _ in range(MAX_EXTENSIONS):
        length = _extension_length(proto, rest)
        if length is None:
            break
        header, rest = rest[:length], rest[length:]
        later = proto == FRAGMENT and IPv6ExtHdrFragment(header).offset > 0
        proto = header[0]
        if later:
            return _Upper(proto, None)
    return _Upper(proto, rest)


def _extension_length(proto: int, rest: bytes) -> int | None:
    """Octets of the extension header that ``rest`` begins with; None if there is no whole one."""
    if proto not in EXTENSIONS or len(rest) < 2:
        return None
    if proto == FRAGMENT:  # RFC 8200, 4.5: of fixed length
        length = 8
    elif proto == AH:  # RFC 4302, 2.2: in 4 octets, less 2
        length = (rest[1] + 2) * 4
    else:  # RFC 8200, 4.3: in 8 octets, not counting the first
        length = (rest[1] + 1) * 8
    return length if length <= len(rest) else None


def _transport(upper: _Upper) -> dict[str, int]:
    if upper.octets is None:
        return {}
    said = {}
    if upper.proto in WITH_TYPE_AND_CODE and len(upper.octets) >= 2:
        said["icmp_type"], said["icmp_code"] = upper.octets[:2]
    if upper.proto in WITH_PORTS and len(upper.octets) >= 4:
        said["src_port"] = int.from_bytes(upper.octets[0:2])
        said["dst_port"] = int.from_bytes(upper.octets[2:4])
    if upper.proto == TCP and len(upper.octets) > TCP_FLAGS_AT:
        said["tcp_flags"] = upper.octets[TCP_FLAGS_AT]
    return said

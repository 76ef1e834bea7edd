"""A connection out of flow records: its ends, its sums as the hosts saw them, who began.

A record's ``tcp_flags`` are the OR over its packets, so the first record of either end
may have SYN and ACK: that end's flags alone do not tell who began. What does:

- SYN and no ACK: the record has a packet with SYN and without ACK. Its sender began.
- SYN and ACK in a record of one packet, or in an announcement, which is made of one
  packet: that packet answers a SYN. Its sender did not begin.
- Both directions have such ORs of several packets: the one whose record with SYN starts
  first, by the clock of a host that saw both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from flowstream.layouts.constants import IpProtocol
from flowstream.records.biflow import Biflow, Evidence, Uniflow
from flowstream.records.community import ICMP_ANSWERS, ICMP_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.records.community import Ends
    from flowstream.records.flow import FlowRecord

_TCP: Final = IpProtocol.TCP.value
# RFC 9293, 3.1.
_SYN, _ACK = 0x02, 0x10
# Advertisements and reports are also sent without a request.
_UNREQUESTED: Final = {IpProtocol.ICMP.value: {9}, IpProtocol.ICMPV6.value: {131, 134, 136}}

_Pair: TypeAlias = list[Uniflow | None]
"""What a host saw: packets from the first end to the second, and the other way."""


class _Sums:
    """Sums of one direction of a connection, over the interfaces of one host."""

    __slots__ = ("end_ns", "l2_octets", "octets", "packets", "start_ns", "syn_ns", "tcp_flags")

    def __init__(self, record: FlowRecord) -> None:
        self.packets = self.octets = self.l2_octets = self.tcp_flags = 0
        self.start_ns = record.time_flow_start_ns
        self.end_ns = record.time_flow_end_ns
        self.syn_ns: int | None = None
        """Start of the first record with SYN."""

    def add(self, record: FlowRecord) -> None:
        start_ns = record.time_flow_start_ns
        self.packets += record.packets
        self.octets += record.bytes
        self.l2_octets += record.l2_bytes
        self.tcp_flags |= record.tcp_flags
        self.start_ns = min(self.start_ns, start_ns)
        self.end_ns = max(self.end_ns, record.time_flow_end_ns)
        if record.tcp_flags & _SYN and (self.syn_ns is None or start_ns < self.syn_ns):
            self.syn_ns = start_ns


class Connection:
    """What the records so far tell of a connection; ends are numbered, 0 is the smaller one."""

    __slots__ = ("_began", "_ends", "_sums", "_type", "end_ns")

    def __init__(self, etype: int, proto: int, ends: Ends) -> None:
        self._type = etype, proto
        self._ends = ends
        self._sums: dict[tuple[bytes, int, int], _Sums] = {}
        """By host, ``flow_direction``, and the end that sent."""
        self._began = [False, False]
        """Whether a packet proves that this end began."""
        self.end_ns = 0

    def add(self, record: FlowRecord, sender: int) -> None:
        """Add a record of the packets that the end ``sender`` sent."""
        self.end_ns = max(self.end_ns, record.time_flow_end_ns)
        began = _sender_began(record)
        if began is not None:
            self._began[sender if began else 1 - sender] = True
        if record.is_new_flow:
            return
        place = record.host_id, record.flow_direction, sender
        sums = self._sums.get(place)
        if sums is None:
            sums = self._sums[place] = _Sums(record)
        sums.add(record)

    def biflow(self) -> Biflow | None:
        """Return both directions, or None where there are announcements only."""
        if not self._sums:
            return None
        etype, proto = self._type
        hosts = self._observed()
        seen = [next((pair[end] for _, pair in hosts if pair[end]), None) for end in (0, 1)]
        initiator, evidence = self._initiator(hosts)
        if initiator is None:
            initiator = _arbitrary(self._ends, seen)
        source, destination = self._ends[initiator], self._ends[1 - initiator]
        has_ports = proto not in ICMP_ANSWERS
        is_paired = source[1] in ICMP_ANSWERS.get(proto, ())
        return Biflow(
            etype=etype,
            proto=proto,
            src_addr=source[0],
            dst_addr=destination[0],
            src_port=source[1] if has_ports else 0,
            dst_port=destination[1] if has_ports else 0,
            icmp_type=0 if has_ports else source[1],
            icmp_code=0 if has_ports or is_paired else destination[1],
            evidence=evidence,
            forward=seen[initiator],
            reverse=seen[1 - initiator],
        )

    def _initiator(self, hosts: list[tuple[bytes, _Pair]]) -> tuple[int | None, Evidence]:
        """Return the end that began and what tells it."""
        is_tcp = self._type[1] == _TCP
        one_began, other_began = self._began
        if one_began != other_began:
            return int(other_began), Evidence.SYN if is_tcp else Evidence.ICMP_TYPE
        if is_tcp:
            # No proof, or one for either end: a simultaneous open, or ports used again.
            first = self._syn_order(host_id for host_id, _ in hosts)
            return first, Evidence.NONE if first is None else Evidence.SYN_ORDER
        one, other = hosts[0][1]
        if one and other and one.time_flow_start_ns != other.time_flow_start_ns:
            return int(other.time_flow_start_ns < one.time_flow_start_ns), Evidence.FIRST_PACKET
        return None, Evidence.NONE

    def _observed(self) -> list[tuple[bytes, _Pair]]:
        """Hosts and what they saw, first those that saw both directions and most packets.

        A host that forwards sees a packet twice, coming in and going out: of its
        ``flow_direction``s the one with more packets counts, over all interfaces.
        """
        hosts: dict[bytes, _Pair] = {}
        for (host_id, flow_direction, sender), sums in sorted(self._sums.items()):
            seen = hosts.setdefault(host_id, [None, None])
            known = seen[sender]
            if known is None or sums.packets > known.packets:
                seen[sender] = _uniflow(host_id, flow_direction, sums)
        return sorted(hosts.items(), key=lambda each: (_rank(each[1]), each[0]))

    def _syn_order(self, hosts: Iterable[bytes]) -> int | None:
        """Return the end whose SYN came first, by the first of ``hosts`` whose clock tells."""
        for host in hosts:
            first: list[int | None] = [None, None]
            for (host_id, _, sender), sums in self._sums.items():
                if host_id == host and sums.syn_ns is not None:
                    known = first[sender]
                    first[sender] = sums.syn_ns if known is None else min(known, sums.syn_ns)
            one, other = first
            if one is not None and other is not None and one != other:
                return int(other < one)
        return None


def _uniflow(host_id: bytes, flow_direction: int, sums: _Sums) -> Uniflow:
    return Uniflow(
        host_id=host_id,
        flow_direction=flow_direction,
        packets=sums.packets,
        bytes=sums.octets,
        l2_bytes=sums.l2_octets,
        tcp_flags=sums.tcp_flags,
        time_flow_start_ns=sums.start_ns,
        time_flow_end_ns=sums.end_ns,
    )


def _rank(seen: _Pair) -> tuple[int, int]:
    flows = [each for each in seen if each]
    return -len(flows), -sum(each.packets for each in flows)


def _sender_began(record: FlowRecord) -> bool | None:
    """Whether a packet proves that the sender began, or the other end (False); else None."""
    if record.proto == _TCP:
        flags = record.tcp_flags & (_SYN | _ACK)
        if flags == _SYN:
            return True
        of_one_packet = record.is_new_flow or record.packets == 1
        return False if flags == _SYN | _ACK and of_one_packet else None
    if record.icmp_type in ICMP_REQUESTS.get(record.proto, ()):
        return True
    is_answer = record.icmp_type in ICMP_ANSWERS.get(record.proto, ())
    unrequested = record.icmp_type in _UNREQUESTED.get(record.proto, ())
    return False if is_answer and not unrequested else None


def _arbitrary(ends: Ends, seen: _Pair) -> int:
    """The only end that sent, or the one with the higher port."""
    if not all(seen):
        return int(seen[0] is None)
    return int(ends[1][1] > ends[0][1])

"""Both directions of a connection as one, and which end began: the Biflow of RFC 5103."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct

# msgspec reads the annotations at run time.
from flowstream.records.fields import U8, U16, U64, Address, Direction, HostId  # noqa: TC001
from flowstream.records.text import ip_address

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


class BiflowDirection(enum.IntEnum):
    """How a biflow's source was chosen: biflowDirection (IPFIX 239)."""

    ARBITRARY = 0
    INITIATOR = 1


class Evidence(enum.StrEnum):
    """What tells that a biflow's source began."""

    SYN = "syn"
    """Exact: its packet with SYN and without ACK, or the other end's with both."""
    ICMP_TYPE = "icmp_type"
    """Exact: it sent the request, or the other end the answer."""
    SYN_ORDER = "syn_order"
    """Nearly exact: both directions have SYN, its own came first (one host's clock)."""
    FIRST_PACKET = "first_packet"
    """A guess: of the packets that one host saw, the first was its own. Never for TCP."""
    NONE = "none"
    """Nothing tells: the source is arbitrary."""

    @property
    def is_exact(self) -> bool:
        """Whether packets prove it."""
        return self in {Evidence.SYN, Evidence.ICMP_TYPE}


class Uniflow(Struct, frozen=True):
    """Packets of one direction, as one host saw them in one ``flow_direction``."""

    host_id: HostId
    flow_direction: Direction
    packets: U64
    bytes: U64
    l2_bytes: U64
    tcp_flags: U8
    time_flow_start_ns: U64
    time_flow_end_ns: U64


class Biflow(Struct, frozen=True):
    """Packets between two ends, in both directions.

    The source is the end that began, as far as ``evidence`` tells. ``forward`` has the
    packets from it, ``reverse`` those to it; None where there are no records of that
    direction. Where nothing tells who began, the source is the end with the higher port
    (with equal ports the smaller address), or the only one that sent. Of ICMP,
    ``icmp_type`` and ``icmp_code`` are those of the source's packets, the code 0 for
    types that have an answer.
    """

    etype: U16
    proto: U8
    src_addr: Address
    dst_addr: Address
    src_port: U16
    dst_port: U16
    icmp_type: U8
    icmp_code: U8
    evidence: Evidence
    forward: Uniflow | None
    reverse: Uniflow | None

    @property
    def biflow_direction(self) -> BiflowDirection:
        """IPFIX 239: whether the source is known, or guessed, to have begun."""
        if self.evidence is Evidence.NONE:
            return BiflowDirection.ARBITRARY
        return BiflowDirection.INITIATOR

    @property
    def source(self) -> IPv4Address | IPv6Address:
        """``src_addr`` as an address object, as in a flow record."""
        return ip_address(self.src_addr, self.etype)

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        """``dst_addr`` as an address object, as in a flow record."""
        return ip_address(self.dst_addr, self.etype)

    @property
    def time_flow_start_ns(self) -> int:
        """Unix ns of the first packet of either direction."""
        return min(each.time_flow_start_ns for each in (self.forward, self.reverse) if each)

    @property
    def time_flow_end_ns(self) -> int:
        """Unix ns of the last packet of either direction."""
        return max(each.time_flow_end_ns for each in (self.forward, self.reverse) if each)

"""The record of the topics ``PREFIX.flows`` and ``PREFIX.new_flows``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from flowstream.layouts.constants import RecordType

# msgspec reads the annotations at run time.
from flowstream.records.fields import (  # noqa: TC001
    U8,
    U16,
    U32,
    U64,
    Address,
    AgentEpoch,
    Direction,
    FlowType,
    HostId,
    IfIndex,
    IfName,
    Mac,
    PrefixLength,
    SamplerAddress,
    Version,
)
from flowstream.records.text import ip_address, mac_text

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


class FlowRecord(Struct, array_like=True, frozen=True, gc=False):
    """Packets of one flow in one interval, or (``record_type`` 2) a flow's announcement.

    A flow's record is a delta: it covers the packets since the flow's previous
    record, so records may be summed freely. An announcement says that a flow is
    new and carries no packets: they are counted in the flow's own record.
    No number is multiplied by ``sampling_rate``. Names follow GoFlow2; each
    field's meaning, unit and IPFIX element stand in its description.
    """

    record_type: Annotated[FlowType, Meta(description="1 = flow, 2 = new_flow")]
    schema_version: Version
    agent_epoch: AgentEpoch
    host_id: HostId
    sampler_address: SamplerAddress
    seq: Annotated[
        U64,
        Meta(
            description="gapless per run and topic, from 0: a missing number is a lost record, "
            "a repeated one a duplicate"
        ),
    ]
    time_received_ns: Annotated[U64, Meta(description="Unix ns at which the agent drained it")]
    time_flow_start_ns: Annotated[
        U64, Meta(description="Unix ns of the record's first packet (IPFIX 156)")
    ]
    time_flow_end_ns: Annotated[
        U64, Meta(description="Unix ns of the record's last packet (IPFIX 157)")
    ]
    etype: Annotated[U16, Meta(description="EtherType: 0x0800 IPv4, 0x86dd IPv6")]
    proto: Annotated[
        U8,
        Meta(
            description="IANA protocol number; for IPv6 the upper-layer header, "
            "extension headers walked (IPFIX 4)"
        ),
    ]
    src_addr: Annotated[Address, Meta(description="source address (IPFIX 8, 27)")]
    dst_addr: Annotated[Address, Meta(description="destination address (IPFIX 12, 28)")]
    src_net: Annotated[
        PrefixLength,
        Meta(
            description="prefix length of src_addr in bits: 32 or 128 a host, less where "
            "records were aggregated (IPFIX 9, 29)"
        ),
    ]
    dst_net: Annotated[
        PrefixLength,
        Meta(description="prefix length of dst_addr in bits, as src_net (IPFIX 13, 30)"),
    ]
    src_port: Annotated[
        U16,
        Meta(
            description="source port; 0 where the protocol has none and for fragments "
            "past the first (IPFIX 7)"
        ),
    ]
    dst_port: Annotated[U16, Meta(description="destination port, as src_port (IPFIX 11)")]
    icmp_type: Annotated[
        U8, Meta(description="ICMP or ICMPv6 type, part of the flow's key; else 0")
    ]
    icmp_code: Annotated[
        U8, Meta(description="ICMP or ICMPv6 code, part of the flow's key; else 0")
    ]
    tcp_flags: Annotated[
        U8, Meta(description="OR of the RFC 9293 flag byte over the packets (IPFIX 6)")
    ]
    ip_tos: Annotated[
        U8, Meta(description="whole TOS or traffic-class byte of the first packet (IPFIX 5)")
    ]
    ip_ttl: Annotated[U8, Meta(description="smallest TTL or hop limit (IPFIX 52)")]
    vlan_id: Annotated[
        U16, Meta(description="outer 802.1Q or 802.1ad VLAN, 0 = untagged (IPFIX 243)")
    ]
    if_index: IfIndex
    if_name: IfName
    src_mac: Annotated[Mac, Meta(description="source MAC of the first packet (IPFIX 56)")]
    dst_mac: Annotated[Mac, Meta(description="destination MAC of the first packet (IPFIX 80)")]
    packets: Annotated[U64, Meta(description="packets; 0 in announcements (IPFIX 2)")]
    bytes: Annotated[
        U64,
        Meta(
            description="IP octets (total length), without Ethernet header and padding; "
            "0 in announcements (IPFIX 1)"
        ),
    ]
    l2_bytes: Annotated[
        U64,
        Meta(
            description="frame octets without FCS, of segments as they go over the wire; "
            "0 in announcements (IPFIX 352)"
        ),
    ]
    flow_count: Annotated[
        U32,
        Meta(
            description="flows that this record stands for: 1, more where records were "
            "aggregated (IPFIX 3)"
        ),
    ]
    sampling_rate: Annotated[U32, Meta(description="1 = every packet, N = one in N")]
    end_reason: Annotated[
        U8,
        Meta(
            description="2 interval over, 4 forced end (shutdown), 5 lack of resources: the "
            "table was nearly full and swapped early, or full and this packet had no entry; "
            "0 in announcements (IPFIX 136)"
        ),
    ]
    flow_direction: Direction

    @property
    def source(self) -> IPv4Address | IPv6Address:
        """``src_addr`` as an address object: IPv4Address where ``etype`` is IPv4."""
        return ip_address(self.src_addr, self.etype)

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        """``dst_addr`` as an address object: IPv4Address where ``etype`` is IPv4."""
        return ip_address(self.dst_addr, self.etype)

    @property
    def source_mac(self) -> str:
        """``src_mac`` as text: "02:00:00:00:00:01"."""
        return mac_text(self.src_mac)

    @property
    def destination_mac(self) -> str:
        """``dst_mac`` as text: "02:00:00:00:00:01"."""
        return mac_text(self.dst_mac)

    @property
    def is_new_flow(self) -> bool:
        """Whether this announces a flow: its packets are counted in the flow's own record."""
        return self.record_type == RecordType.NEW_FLOW

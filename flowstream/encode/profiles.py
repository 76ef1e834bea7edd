"""Profiles of JSON names: GoFlow2's, the Elastic Common Schema's, NetObserv's.

A profile is a tree. Its leaves name a column: a field of the record as JSON
carries it, or one of ``COMPUTED``. Every profile carries the fields that are
needed to find losses and duplicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
from msgspec import UNSET

from flowstream.encode.columns import name_text
from flowstream.encode.value_builder import bytes_of
from flowstream.records import RecordType
from flowstream.records.json_form import FlowJson
from flowstream.records.text import ETYPE_IPV4, ETYPE_IPV6, address_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

Tree: TypeAlias = Mapping[str, "str | Tree"]

# ECS 8.11: https://www.elastic.co/guide/en/ecs/8.11. Fields without a name in it are
# under "flowstream".
_ECS: Final[Tree] = {
    "@timestamp": "end_text",
    "ecs": {"version": "ecs_version"},
    "event": {
        "kind": "ecs_kind",
        "category": "ecs_category",
        "type": "ecs_type",
        "action": "ecs_action",
        "created": "received_text",
        "start": "start_text",
        "end": "end_text",
        "sequence": "seq",
    },
    "host": {"id": "host_id", "name": "host"},
    "observer": {"ip": "ecs_observer_ip", "ingress": "ecs_ingress", "egress": "ecs_egress"},
    "network": {
        "type": "ecs_network_type",
        "iana_number": "proto_text",
        "transport": "ecs_transport",
        "direction": "ecs_direction",
        "packets": "packets",
        "bytes": "bytes",
        "vlan": "ecs_vlan",
        "community_id": "community_id",
    },
    "source": {
        "ip": "src_addr",
        "port": "src_port",
        "mac": "ecs_src_mac",
        "packets": "packets",
        "bytes": "bytes",
    },
    "destination": {"ip": "dst_addr", "port": "dst_port", "mac": "ecs_dst_mac"},
    "flowstream": {
        "record_type": "record_type",
        "schema_version": "schema_version",
        "agent_epoch": "agent_epoch",
        "etype": "etype",
        "src_net": "src_net",
        "dst_net": "dst_net",
        "icmp_type": "icmp_type",
        "icmp_code": "icmp_code",
        "tcp_flags": "tcp_flags",
        "ip_tos": "ip_tos",
        "ip_ttl": "ip_ttl",
        "if_index": "if_index",
        "l2_bytes": "l2_bytes",
        "flow_count": "flow_count",
        "sampling_rate": "sampling_rate",
        "end_reason": "end_reason",
        "flow_direction": "flow_direction",
    },
}

# As NetObserv's pipeline writes flows. Its bytes are frame octets.
_NETOBSERV: Final[Tree] = {
    "TimeFlowStartMs": "start_ms",
    "TimeFlowEndMs": "end_ms",
    "TimeReceived": "received_s",
    "SrcAddr": "src_addr",
    "DstAddr": "dst_addr",
    "SrcPort": "src_port",
    "DstPort": "dst_port",
    "SrcMac": "netobserv_src_mac",
    "DstMac": "netobserv_dst_mac",
    "Etype": "etype",
    "Proto": "proto",
    "Flags": "tcp_flags",
    "Dscp": "dscp",
    "IcmpType": "icmp_type",
    "IcmpCode": "icmp_code",
    "Bytes": "l2_bytes",
    "Packets": "packets",
    "Sampling": "sampling_rate",
    "Interfaces": "interfaces",
    "IfDirections": "directions",
    "FlowDirection": "flow_direction",
    "RecordType": "record_type",
    "SchemaVersion": "schema_version",
    "AgentEpoch": "agent_epoch",
    "HostId": "host_id",
    "Host": "host",
    "AgentIP": "sampler_address",
    "Seq": "seq",
    "SrcNet": "src_net",
    "DstNet": "dst_net",
    "IpBytes": "bytes",
    "IpTos": "ip_tos",
    "IpTtl": "ip_ttl",
    "VlanId": "vlan_id",
    "InIf": "in_if",
    "OutIf": "out_if",
    "FlowCount": "flow_count",
    "EndReason": "end_reason",
    "CommunityId": "community_id",
}

PROFILES: Final[Mapping[str, Tree]] = {
    "goflow2": {name: name for name in FlowJson.__struct_fields__},
    "ecs": _ECS,
    "netobserv": _NETOBSERV,
}
"""Profiles by name; the first is the default and the one that ``decode`` reads."""

_REMEMBERED_MACS: Final = 16_384
_REMEMBERED_INTERFACES: Final = 1_024

# ECS has the protocol's keyword in lower case; others have only the number beside it.
_TRANSPORTS: Final = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    89: "ospf",
    132: "sctp",
    136: "udplite",
}
_NETWORK_TYPES: Final = {ETYPE_IPV4: "ipv4", ETYPE_IPV6: "ipv6"}
_DIRECTIONS: Final = {0: "ingress", 1: "egress"}


class Computed(NamedTuple):
    """A column made of other ones: ``values`` takes their arrays, parallel, of shape (n, ...)."""

    sources: tuple[str, ...]
    values: Callable[..., Iterable[Any]]


def _each(source: str, value: Callable[[Any], Any]) -> Computed:
    """Value by value; each different one is computed once, as there are few."""
    remembered = cache(value)
    return Computed((source,), lambda column: map(remembered, column.tolist()))


def _mac(source: str, text: Callable[[bytes], str]) -> Computed:
    remembered = lru_cache(_REMEMBERED_MACS)(text)
    return Computed((source,), lambda column: map(remembered, bytes_of(column)))


def _units(source: str, unit_ns: int) -> Computed:
    unit = np.uint64(unit_ns)
    return Computed((source,), lambda column: (column.astype(np.uint64) // unit).tolist())


def _time_text(source: str) -> Computed:
    """UTC to the nanosecond, as in RFC 3339."""

    def values(column: NDArray[Any]) -> Iterable[str]:
        seconds, rest = np.divmod(column.astype(np.uint64), np.uint64(1_000_000_000))
        # Many flows, few seconds.
        different, which = np.unique(seconds, return_inverse=True)
        texts = different.astype("M8[s]").astype(str).tolist()
        return [
            f"{texts[index]}.{nanoseconds:09}Z"
            for index, nanoseconds in zip(which.tolist(), rest.tolist(), strict=True)
        ]

    return Computed((source,), values)


def _interface(direction: int) -> Computed:
    """The interface as ECS has it under ``ingress`` or ``egress``; nothing under the other."""

    @lru_cache(_REMEMBERED_INTERFACES)
    def interface(seen: int, index: int, name: bytes) -> Any:
        if seen != direction:
            return UNSET
        return {"interface": {"id": str(index), "name": name_text(name)}}

    def values(
        directions: NDArray[np.uint8], indexes: NDArray[Any], names: NDArray[np.uint8]
    ) -> Iterable[Any]:
        return map(interface, directions.tolist(), indexes.tolist(), bytes_of(names))

    return Computed(("flow_direction", "if_index", "if_name"), values)


def _is_new(record_type: int) -> bool:
    return record_type == RecordType.NEW_FLOW


COMPUTED: Final[Mapping[str, Computed]] = {
    "start_text": _time_text("time_flow_start_ns"),
    "end_text": _time_text("time_flow_end_ns"),
    "received_text": _time_text("time_received_ns"),
    "start_ms": _units("time_flow_start_ns", 1_000_000),
    "end_ms": _units("time_flow_end_ns", 1_000_000),
    "received_s": _units("time_received_ns", 1_000_000_000),
    "proto_text": _each("proto", str),
    "dscp": _each("ip_tos", lambda tos: tos >> 2),
    "interfaces": Computed(
        ("if_name",), lambda names: ([name_text(each)] for each in bytes_of(names))
    ),
    "directions": _each("flow_direction", lambda direction: [direction]),
    "netobserv_src_mac": _mac("src_mac", lambda mac: mac.hex(":").upper()),
    "netobserv_dst_mac": _mac("dst_mac", lambda mac: mac.hex(":").upper()),
    "ecs_src_mac": _mac("src_mac", lambda mac: mac.hex("-").upper()),
    "ecs_dst_mac": _mac("dst_mac", lambda mac: mac.hex("-").upper()),
    "ecs_version": _each("schema_version", lambda _: "8.11.0"),
    "ecs_observer_ip": Computed(
        ("sampler_address",),
        lambda column: ([address_text(address)] for address in bytes_of(column)),
    ),
    "ecs_ingress": _interface(0),
    "ecs_egress": _interface(1),
    "ecs_kind": _each("record_type", lambda _: "event"),
    "ecs_category": _each("record_type", lambda _: ["network"]),
    "ecs_type": _each(
        "record_type", lambda kind: ["connection", "start"] if _is_new(kind) else ["connection"]
    ),
    "ecs_action": _each("record_type", lambda kind: "new_flow" if _is_new(kind) else "flow"),
    "ecs_network_type": _each("etype", lambda etype: _NETWORK_TYPES.get(etype, UNSET)),
    "ecs_transport": _each("proto", lambda proto: _TRANSPORTS.get(proto, UNSET)),
    "ecs_direction": _each("flow_direction", lambda number: _DIRECTIONS.get(number, UNSET)),
    "ecs_vlan": _each("vlan_id", lambda vlan: {"id": str(vlan)} if vlan else UNSET),
}
"""Columns that are not fields of the record."""

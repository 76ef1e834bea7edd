"""Community ID, version 1, seed 0, of a record.

https://github.com/corelight/community-id-spec: many tools name a flow, in both
directions, by it.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import TYPE_CHECKING, Final, TypeAlias

from flowstream.layouts.constants import IpProtocol
from flowstream.records.text import ETYPE_IPV4, V4_MAPPED

if TYPE_CHECKING:
    from flowstream.records.flow import FlowRecord

_ICMP, _ICMPV6 = IpProtocol.ICMP.value, IpProtocol.ICMPV6.value
WITH_PORTS: Final = (
    _ICMP,
    _ICMPV6,
    IpProtocol.TCP.value,
    IpProtocol.UDP.value,
    IpProtocol.SCTP.value,
)
"""Protocols whose ports, or ICMP types, are part of the ID."""
ICMP_REQUESTS: Final = {
    _ICMP: {8: 0, 13: 14, 15: 16, 10: 9, 17: 18},
    _ICMPV6: {128: 129, 130: 131, 133: 134, 135: 136, 139: 140, 144: 145},
}
"""For each ICMP type that asks the type that answers."""
ICMP_ANSWERS: Final = {
    proto: pairs | {answer: request for request, answer in pairs.items()}
    for proto, pairs in ICMP_REQUESTS.items()
}
"""For each ICMP type the type of the other direction; flows of other types have one."""

End: TypeAlias = tuple[bytes, int]
"""Address and port; of ICMP a type, or, where no type answers, type and code."""
Ends: TypeAlias = tuple[End, End]
"""The smaller end first; the sender's where the flow has one direction only."""


def community_id(record: FlowRecord) -> str:
    """Community ID of a flow record: "1:" and 28 characters of base64.

    A fragment past the first counts with the ports 0, as in its record. The ID
    of an aggregated record (``flow_count`` above 1) is that of its masked fields.
    """
    ends, _ = ends_of(record)
    is_v4 = record.etype == ETYPE_IPV4 and all(
        address.startswith(V4_MAPPED) for address in (record.src_addr, record.dst_addr)
    )
    addresses = [address[12:] if is_v4 else address for address, _ in ends]
    hashed = bytes(2) + b"".join(addresses) + bytes([record.proto, 0])
    if record.proto in WITH_PORTS:
        hashed += b"".join(port.to_bytes(2) for _, port in ends)
    return "1:" + b64encode(sha1(hashed, usedforsecurity=False).digest()).decode()


def ends_of(record: FlowRecord) -> tuple[Ends, int]:
    """Both ends, and the number of the one that sent."""
    src_port, dst_port, one_way = ports(record)
    source, destination = (record.src_addr, src_port), (record.dst_addr, dst_port)
    if one_way or source <= destination:
        return (source, destination), 0
    return (destination, source), 1


def ports(record: FlowRecord) -> tuple[int, int, bool]:
    """Ports, or for ICMP the numbers in their place; whether the flow has one direction only.

    ICMP has the type of either direction, or, where no type answers, type and code.
    """
    answers = ICMP_ANSWERS.get(record.proto)
    if answers is None:
        return record.src_port, record.dst_port, False
    answer = answers.get(record.icmp_type)
    if answer is None:
        return record.icmp_type, record.icmp_code, True
    return record.icmp_type, answer, False

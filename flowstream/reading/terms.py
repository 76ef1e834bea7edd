"""Constants of conditions: names of numbers, addresses and networks; hints at mistakes."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowstream.records.fields import Kind
from flowstream.records.text import (
    ETYPE_IPV4,
    ETYPE_IPV6,
    V4_MAPPED,
    host_id_bytes,
    mac_bytes,
)

if TYPE_CHECKING:
    from flowstream.records.describe import Field

TCP_FLAGS: Final = {
    name: 1 << bit
    for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"))
}
"""Bits of ``tcp_flags`` (RFC 9293)."""

PROTOCOLS: Final = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47,
    "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "eigrp": 88, "ospf": 89, "pim": 103,
    "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}  # fmt: skip
"""IANA's protocol numbers by their keywords, and the usual spelling of two."""
PROTOCOL_NAMES: Final = {number: name for name, number in reversed(PROTOCOLS.items())}
"""The first of the keywords by protocol number."""
_NUMBERS: Final = {
    "proto": PROTOCOLS,
    "etype": {"ipv4": ETYPE_IPV4, "ipv6": ETYPE_IPV6},
    "flow_direction": {"ingress": 0, "egress": 1},
    "record_type": {"flow": 1, "new_flow": 2, "counters": 3},
}


class Address(NamedTuple):
    """16 octets of a record; ``etype`` tells IPv4 from v4-mapped addresses of IPv6 packets."""

    octets: bytes
    etype: int = ETYPE_IPV4

    @property
    def is_ipv4(self) -> bool:
        """Whether it is written dotted."""
        return self.etype == ETYPE_IPV4 and self.octets.startswith(V4_MAPPED)


class Network:
    """An address or a network; equal to the addresses in it, IPv4 and IPv6 apart."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        network = ipaddress.ip_network(text)
        self._is_ipv4 = network.version == 4
        length = network.prefixlen + (128 - network.max_prefixlen)
        packed = network.network_address.packed
        octets = V4_MAPPED + packed if self._is_ipv4 else packed
        self._shift = 128 - length
        self._prefix = int.from_bytes(octets) >> self._shift

    def contains(self, address: Address) -> bool:
        """Whether ``address`` is in the network."""
        return (
            int.from_bytes(address.octets) >> self._shift == self._prefix
            and address.is_ipv4 == self._is_ipv4
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self.contains(other)


def constant_of(field: Field, text: str, *, network: bool = False) -> Any:
    """Value that ``field`` is compared with; ValueError, with the text, where it is none.

    ``network`` permits a network in place of an address.
    """
    numbers = _NUMBERS.get(field.name)
    if numbers is not None:
        try:
            return numbers[text.lower()]
        except KeyError:
            raise ValueError(f"{text!r}; known names: {', '.join(numbers)}") from None
    if field.kind == Kind.ADDRESS and "/" in text and not network:
        raise ValueError(f"the network {text!r}; use in")
    try:
        match field.kind:
            case Kind.ADDRESS:
                return Network(text)
            case Kind.MAC:
                return mac_bytes(text)
            case Kind.HOST_ID:
                return host_id_bytes(text)
    except ValueError as err:
        raise ValueError(f"{text!r}: {err}") from None
    raise ValueError(f"the text {text!r}; it is a number")


_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_HINTS: Final = (
    (re.compile(r"&&|\|\||![^=]"), "join by and, or, not"),
    (re.compile(r"(?<![=!<>])=(?!=)"), "compare by =="),
    (re.compile(r"[0-9]\.[0-9]+\.|:"), "quote addresses: '10.0.0.1'"),
)


def syntax_hint(text: str) -> str:
    """Return how a condition writes what other languages write in another way, or nothing."""
    bare = _QUOTED.sub("", text)
    return next((f"; {hint}" for pattern, hint in _HINTS if pattern.search(bare)), "")

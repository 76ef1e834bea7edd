"""Expressions of pcap-filter(7) that tcpdump and the kernel must agree about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPRESSIONS = (
    # protocols
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "igmp",
    "ip proto 47",
    "ip6 proto 44",
    "proto 50 or proto 51",
    "not ip and not ip6",
    "ether proto 0x88cc or arp",
    # hosts and networks
    "host 10.0.0.1",
    "src host 10.0.0.1 or dst host 192.168.0.2",
    "net 10.0.0.0/8",
    "net 10.0.0.0/8 and not port 22",
    "src net 192.168 and not dst net 192.168",
    "net 224.0.0.0/4 or net ff00::/8",
    "ip6 host 2001:db8::1",
    "net fe80::/10",
    "not (src net 2001:db8::/32 or dst net 2001:db8::/32)",
    "ether host 02:00:00:00:00:01",
    "ether src 00:00:00:00:00:00",
    "ether multicast",
    "ether broadcast",
    "ip multicast or ip6 multicast",
    # ports
    "port 443",
    "tcp port 80",
    "udp port 53 or udp port 5353",
    "src port 1000 and dst port 53",
    "portrange 1-1023",
    "tcp src portrange 1024-65535 and not dst port 80",
    "sctp port 80",
    "(tcp or udp) and not (port 53 or port 80)",
    # octets and arithmetic
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] = tcp-ack",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "ip[0] & 0xf > 5",
    "ip[8] < 64",
    "ip[6:2] & 0x1fff != 0",
    "ip[2:2] > 576",
    "icmp[icmptype] = icmp-echo",
    "icmp6 and ip6[40] = 135",
    "ether[0] & 1 = 1 and ether[12:2] < 0x600",
    "ip[ip[0] & 0xf:2] % 7 = 3",
    "udp[4:2] - 8 > 100",
    "ip[2:2] * 3 / 2 > 300",
    "ip[1] ^ 0x10 = 0",
    "1 << ip[8] = 0",
    "len / ip[1] > 10",
    "ip[9] | ip[8] != 0x46",
    "tcp[2:2] & 1 = ip[19] & 1",
    "ip[10:2] << (ip[8] & 31) > 1000000",
    # lengths
    "less 100",
    "greater 200",
    "len > 60 and len < 1000",
    "len - 14 = ip[2:2]",
    # tags and tunnels
    "vlan",
    "vlan 123",
    "vlan and tcp",
    "vlan and ip host 10.0.0.1",
    "vlan and vlan",
    "not vlan and udp",
    "ether[14:2] & 0xfff = 0x123",
    "ether[12:4] = 0x8100007b",
    "mpls",
    "pppoes",
    "geneve",
    "llc",
    # of everything something
    "tcp and port 80 and (((ip[2:2] - ((ip[0] & 0xf) << 2)) - ((tcp[12] & 0xf0) >> 2)) != 0)",
)


_ADDRESSES = ("10.0.0.1", "10.0.0.2", "192.168.0.1", "0.0.0.0", "255.255.255.255")
_ADDRESSES6 = ("::1", "fe80::1", "2001:db8::1", "ff02::1")
_NETS = (
    "net 10.0.0.0/8",
    "src net 192.168",
    "dst net 10.0.0.0/31",
    "net fe80::/10",
    "net 0.0.0.0/0",
    "net 10.0.0.0 mask 255.255.0.0",
)
_PORTS = ("53", "80", "1000", "1-1023", "443-65535", "0")
_PROTOCOLS = (
    *("ip", "ip6", "tcp", "udp", "icmp", "icmp6", "arp", "sctp", "vlan", "vlan 123", "mpls"),
    *("pppoes", "ip multicast", "ether broadcast", "ip6 proto 44", "ip proto 47", "llc"),
    *("ether proto 0x86dd", "ether src 02:00:00:00:00:01", "igmp", "geneve", "geneve 17"),
    *("mpls 17", "mpls 17 and mpls", "pppoes 7", "pppoed", "stp", "icmp6[icmp6type] = 128"),
)
_HEADERS = ("ether", "ip", "ip6", "tcp", "udp", "icmp", "arp")
_OPERATORS = ("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>")
_RELATIONS = ("=", "!=", ">", "<", ">=", "<=")
_NUMBERS = (
    "0",
    "1",
    "4",
    "7",
    "31",
    "32",
    "64",
    "255",
    "0x800",
    "65535",
    "0x80000000",
    "4294967295",
)


class Expressions:
    """Makes expressions of octets: equal octets give equal ones. They may be wrong."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _below(self, count: int) -> int:
        """The next choice; the first once there are no more octets."""
        octet = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return octet % count

    def _one(self, texts: Sequence[str]) -> str:
        return texts[self._below(len(texts))]

    def made(self, depth: int = 4) -> str:
        """An expression of primitives, and, or, not and parentheses."""
        kind = self._below(8) if depth else 0
        if kind < 3:
            return self._primitive()
        if kind == 3:
            return f"not {self.made(depth - 1)}"
        if kind == 4:
            return f"({self.made(depth - 1)})"
        operator = ("and", "or")[kind % 2]
        return f"{self.made(depth - 1)} {operator} {self.made(depth - 1)}"

    def _primitive(self) -> str:
        kind = self._below(8)
        if kind < 2:
            return self._one(_PROTOCOLS)
        if kind == 2:
            return f"{self._one(('', 'src ', 'dst '))}host {self._one(_ADDRESSES + _ADDRESSES6)}"
        if kind == 3:
            return self._one(_NETS)
        if kind == 4:
            port = self._one(_PORTS)
            what = "portrange" if "-" in port else "port"
            return f"{self._one(('', 'tcp ', 'udp ', 'src ', 'tcp dst '))}{what} {port}"
        if kind == 5:
            return f"{self._one(('less', 'greater'))} {self._one(_NUMBERS)}"
        return f"{self._number(3)} {self._one(_RELATIONS)} {self._number(2)}"

    def _number(self, depth: int) -> str:
        kind = self._below(6) if depth else self._below(2)
        if kind == 0:
            return self._one(_NUMBERS)
        if kind == 1:
            return "len"
        if kind < 4:
            size = self._one(("", ":1", ":2", ":4"))
            return f"{self._one(_HEADERS)}[{self._number(depth - 1)}{size}]"
        return f"({self._number(depth - 1)} {self._one(_OPERATORS)} {self._number(depth - 1)})"

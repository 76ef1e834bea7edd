"""Numbers, times, addresses and services as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.reading.terms import PROTOCOL_NAMES
from flowstream.records.text import network_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E", "Z")
_PROTOCOL_NAMES: Final = {
    number: name.upper().replace("V6", "v6") for number, name in PROTOCOL_NAMES.items()
} | {255: "several"}
# The service names of IANA that most networks have, by port.
_SERVICES: Final = {
    20: "ftp-data", 21: "ftp", 22: "ssh", 23: "telnet", 25: "smtp", 53: "domain", 67: "bootps",
    68: "bootpc", 80: "http", 88: "kerberos", 110: "pop3", 123: "ntp", 137: "netbios-ns",
    143: "imap", 161: "snmp", 179: "bgp", 389: "ldap", 443: "https", 445: "microsoft-ds",
    465: "submissions", 514: "syslog", 546: "dhcpv6-client", 547: "dhcpv6-server",
    587: "submission", 636: "ldaps", 853: "domain-s", 993: "imaps", 995: "pop3s",
    1194: "openvpn", 2049: "nfs", 3306: "mysql", 3389: "ms-wbt-server", 4789: "vxlan",
    5353: "mdns", 5432: "postgresql", 6379: "redis", 9092: "kafka", 9418: "git",
}  # fmt: skip


def scaled(number: float, unit: str) -> str:
    """Return "1.05 GB" for a number of octets with the unit "B"."""
    power = 0
    while abs(number) >= 999.5 and power < len(_PREFIXES) - 1:
        number, power = number / 1_000, power + 1
    digits = f"{number:.3g}" if power or number != int(number) else f"{int(number)}"
    return f"{digits} {_PREFIXES[power]}{unit}"


def octets_text(octets: float) -> str:
    """Return octets with a prefix."""
    return scaled(octets, "B")


def count_text(number: float) -> str:
    """Return "1,009"."""
    return f"{round(number):,}"


def share_text(part: float, whole: float) -> str:
    """Return "12.5 %"; nothing of nothing is nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def time_text(unix_ns: int) -> str:
    """Return "2026-11-26 02:50:20 UTC", of times that datetime refuses, too."""
    return f"{np.datetime64(unix_ns // 10**9, 's')} UTC".replace("T", " ", 1)


def duration_text(duration_ns: float) -> str:
    """Return "2 ms", "5 min", "3 d"."""
    for unit, size in (("d", 86_400e9), ("h", 3_600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6)):
        if duration_ns >= size:
            return f"{duration_ns / size:.3g} {unit}"
    return f"{duration_ns / 1e3:.3g} µs"


def end_text(key: NDArray[np.uint64]) -> str:
    """Return the address of a key of three numbers, as a network where it is masked."""
    high, low, networks = key.tolist()
    return network_text((high << 64 | low).to_bytes(16), networks & 0xFF, networks >> 16)


def protocol_text(proto: int) -> str:
    """Return "TCP", or "protocol 99"."""
    return _PROTOCOL_NAMES.get(proto, f"protocol {proto}")


def service_text(proto: int, port: int) -> str:
    """Return "TCP 443 (https)"; a protocol without ports is its name."""
    if not port:
        return protocol_text(proto)
    name = f" ({_SERVICES[port]})" if port in _SERVICES else ""
    return f"{protocol_text(proto)} {port}{name}"

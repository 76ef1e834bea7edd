"""Expected contents of the topics: sums by host and destination prefix, and losses by host."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowstream.records.text import V4_MAPPED

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Traffic(NamedTuple):
    """Sums over flow records; ``l2_bytes`` are frame octets."""

    records: int = 0
    packets: int = 0
    bytes: int = 0
    l2_bytes: int = 0

    def plus(self, other: Traffic, sign: int = 1) -> Traffic:
        """Sum of both, or the difference with ``sign`` -1."""
        return Traffic(*(mine + sign * its for mine, its in zip(self, other, strict=True)))


def prefix_text(address: bytes) -> str:
    """The /16 of an IPv4 address or the /48 of an IPv6 address, without "::" inside."""
    if address.startswith(V4_MAPPED):
        return f"{address[12]}.{address[13]}.0.0/16"
    groups = np.frombuffer(address[:6], ">u2").tolist()
    return ":".join(f"{group:x}" for group in groups) + "::/48"


class Truth:
    """Sums of the published records; ``missing`` counts records by host that the sink gave up."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, bytes], Traffic] = defaultdict(Traffic)
        self.missing: dict[str, int] = defaultdict(int)
        self.lossy: set[str] = set()

    def published(self, host: str, records: NDArray[np.void]) -> None:
        """Add flow records."""
        prefixes = records["dst_addr"].copy()
        mapped = (prefixes[:, :12] == np.frombuffer(V4_MAPPED, np.uint8)).all(axis=1)
        prefixes[mapped, 14:] = 0
        prefixes[~mapped, 6:] = 0
        networks, which = np.unique(prefixes, axis=0, return_inverse=True)
        for number, network in enumerate(networks):
            here = records[which.reshape(-1) == number]
            sums = (int(here[name].sum()) for name in Traffic._fields[1:])
            key = (host, network.tobytes())
            self._sums[key] = self._sums[key].plus(Traffic(len(here), *sums))

    def withheld(self, host: str, dst_addr: bytes, traffic: Traffic) -> None:
        """Subtract a flow record that the sink gave up."""
        cut = slice(14) if dst_addr.startswith(V4_MAPPED) else slice(6)
        key = (host, dst_addr[cut].ljust(16, b"\0"))
        self._sums[key] = self._sums[key].plus(traffic, -1)
        self.missing[host] += traffic.records
        self.lossy.add(host)

    def as_json(self) -> dict[str, Any]:
        """``traffic``: lists of host, prefix and ``Traffic``; also sums by host and by prefix."""
        traffic_of = sorted(
            (host, prefix_text(network), traffic)
            for (host, network), traffic in self._sums.items()
            if traffic.records
        )
        hosts: dict[str, Traffic] = defaultdict(Traffic)
        prefixes: dict[str, Traffic] = defaultdict(Traffic)
        for host, prefix, traffic in traffic_of:
            hosts[host] = hosts[host].plus(traffic)
            prefixes[prefix] = prefixes[prefix].plus(traffic)
        return {
            "traffic": [[host, prefix, *traffic] for host, prefix, traffic in traffic_of],
            "hosts": {host: traffic._asdict() for host, traffic in hosts.items()},
            "prefixes": {name: traffic._asdict() for name, traffic in sorted(prefixes.items())},
            "missing": dict(self.missing),
            "lossy": sorted(self.lossy),
        }

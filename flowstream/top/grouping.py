"""What the rows of the live table stand for: sources, destinations, conversations and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from flowstream.reading.terms import PROTOCOL_NAMES
from flowstream.records.text import network_text
from flowstream.top.settings import GROUP_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_END: Final = np.dtype([("etype", ">u2"), ("net", "u1"), ("addr", "V16")])
_PAIR: Final = np.dtype(
    [("etype", ">u2"), ("net", "u1"), ("addr", "V16"), ("net2", "u1"), ("addr2", "V16")]
)
_PORT: Final = np.dtype([("proto", "u1"), ("port", ">u2")])


class Host(NamedTuple):
    """An address, or the network of an aggregated record, of one end of flows."""

    etype: int
    net: int
    address: bytes

    @property
    def is_address(self) -> bool:
        """Whether it is a single address."""
        return "/" not in self.text

    @property
    def text(self) -> str:
        """The address, or the network with its length."""
        return network_text(self.address, self.net, self.etype)


class Group(NamedTuple):
    """A way to group flows: ``keys`` has a key for each, ``parts`` what a key consists of."""

    keys: Callable[[NDArray[np.void]], list[bytes]]
    parts: Callable[[bytes], Sequence[Host | str]]

    def text(self, key: bytes, names: Mapping[str, str]) -> str:
        """Text of a key, with the names of those addresses that have one in ``names``."""
        texts = (part if isinstance(part, str) else part.text for part in self.parts(key))
        return " <-> ".join(names.get(text, text) for text in texts)


def _octets(keys: NDArray[np.void]) -> list[bytes]:
    found: list[bytes] = keys.view(f"V{keys.dtype.itemsize}").tolist()
    return found


def _ends(prefix: str) -> Callable[[NDArray[np.void]], list[bytes]]:
    def keys(flows: NDArray[np.void]) -> list[bytes]:
        ends = np.empty(len(flows), _END)
        ends["etype"] = flows["etype"]
        ends["net"], ends["addr"] = flows[f"{prefix}_net"], flows[f"{prefix}_addr"]
        return _octets(ends)

    return keys


def _pairs(flows: NDArray[np.void]) -> list[bytes]:
    """Both hosts, the one with the lower address first: a conversation has both directions."""
    pairs = np.empty(len(flows), _PAIR)
    high, low = (_halves(flows[name]) for name in ("src_addr", "dst_addr"))
    swap = (high[:, 0] > low[:, 0]) | ((high[:, 0] == low[:, 0]) & (high[:, 1] > low[:, 1]))
    pairs["etype"] = flows["etype"]
    for one, two, field in (("net", "net2", "net"), ("addr", "addr2", "addr")):
        source, destination = flows[f"src_{field}"], flows[f"dst_{field}"]
        pairs[one], pairs[two] = source, destination
        pairs[one][swap], pairs[two][swap] = destination[swap], source[swap]
    return _octets(pairs)


def _halves(addresses: NDArray[np.void]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(addresses).view(">u8").reshape(-1, 2)


def _ports(flows: NDArray[np.void]) -> list[bytes]:
    """The lower port, which is the service's as a rule; 0 where the protocol has none."""
    ports = np.empty(len(flows), _PORT)
    lower = np.minimum(flows["src_port"], flows["dst_port"])
    ports["proto"] = flows["proto"]
    ports["port"] = np.where(lower > 0, lower, np.maximum(flows["src_port"], flows["dst_port"]))
    return _octets(ports)


def _protocols(flows: NDArray[np.void]) -> list[bytes]:
    return [bytes((each,)) for each in flows["proto"].tolist()]


def _one_host(key: bytes) -> Sequence[Host]:
    return (Host(int.from_bytes(key[:2]), key[2], key[3:]),)


def _two_hosts(key: bytes) -> Sequence[Host]:
    etype = int.from_bytes(key[:2])
    return Host(etype, key[2], key[3:19]), Host(etype, key[19], key[20:])


def _protocol(key: bytes) -> Sequence[str]:
    return (PROTOCOL_NAMES.get(key[0], f"protocol {key[0]}"),)


def _port(key: bytes) -> Sequence[str]:
    port, (protocol,) = int.from_bytes(key[1:]), _protocol(key)
    return (f"{port}/{protocol}" if port else protocol,)


_GROUPS: Final = (
    Group(_ends("src"), _one_host),
    Group(_ends("dst"), _one_host),
    Group(_pairs, _two_hosts),
    Group(_ports, _port),
    Group(_protocols, _protocol),
)
GROUPS: Final = dict(zip(GROUP_NAMES, _GROUPS, strict=True))
"""Ways to group flows, by name."""

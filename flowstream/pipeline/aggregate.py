"""Merges flow records at coarser keys until they fit a budget; sums stay exact.

Pure: no loop, no clock, no log. Linear but for sorting 64-bit hashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from flowstream.encode.hashes import hashes_of
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records.text import ETYPE_IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Words: TypeAlias = NDArray[np.uint64]

ANY_PROTO: Final = 255
"""``proto`` of a record that several protocols were merged into (IANA: reserved)."""

_IPV4_BITS, _IPV6_BITS = 32, 128


class Level(NamedTuple):
    """Leading bits that addresses keep, as (IPv4, IPv6), and the other parts of the key."""

    src: tuple[int, int]
    dst: tuple[int, int]
    ports: bool = False
    """Ports, ICMP type and code, VLAN: all of the flow's key."""
    proto: bool = True


_HOST, _NET, _ANY = (_IPV4_BITS, _IPV6_BITS), (24, 48), (0, 0)

LEVELS: Final = (
    Level(_HOST, _HOST, ports=True),  # records of one flow
    Level(_HOST, _HOST),
    Level(_NET, _HOST),
    Level(_NET, _NET),
    # Spoofed sources flood few hosts: their targets stay.
    Level(_ANY, _HOST),
    # Few sources scan many hosts.
    Level(_NET, _ANY),
    Level(_ANY, _ANY),
    Level(_ANY, _ANY, proto=False),
)
"""Tried in this order until the records fit. Interface, direction, EtherType and sampling
rate always stay apart."""

_SUMMED: Final = {"packets": 2**63, "bytes": 2**63, "l2_bytes": 2**63, "flow_count": 2**32}
"""Fields that are added, and the limit that their sums stay below."""
_REDUCED: Final = (
    ("time_received_ns", np.maximum),
    ("time_flow_start_ns", np.minimum),
    ("time_flow_end_ns", np.maximum),
    ("tcp_flags", np.bitwise_or),
    ("ip_ttl", np.minimum),
    # Lack of resources (5) before a forced end (4) before the interval's (2).
    ("end_reason", np.maximum),
)
_SAME_OR_ZERO: Final = (
    *("src_port", "dst_port", "icmp_type", "icmp_code", "ip_tos", "vlan_id"),
    *("src_mac", "dst_mac"),
)


def aggregate(records: NDArray[np.void], budget: int) -> NDArray[np.void]:
    """Return at most ``budget`` records with the sums of ``records``.

    ``records`` has shape (n,) and dtype FLOW_RECORD, values below 2^63, not yet
    stamped. Up to ``budget`` records are returned as they are. Of more, the
    largest by ``l2_bytes`` stay as they are: frame octets rank floods of small
    packets and bulk transfers alike. The others are merged at the first of
    ``LEVELS`` at which they fit into half of the budget, or, at the last two levels,
    into all of it. Where they do not fit even then, the result has one record per
    interface, direction, EtherType and sampling rate. (Sums that would leave their
    field are split into several records.)

    Sums of packets, octets and flows per interface and direction are those of
    ``records``. A merged record has its addresses masked to ``src_net`` and
    ``dst_net``; ports, ICMP type and code, TOS, VLAN and MACs that differed
    are 0, protocols 255; flags are ORed, the TTL is the smallest, times are the
    outermost, ``end_reason`` is the largest.
    """
    if len(records) <= budget:
        return records
    keys = _Keys(records)
    ranks = _ranks(records, keys)
    for share, level in _steps(budget):
        count = len(_groups(keys.at(level, _others(ranks, share))).starts)
        if count <= budget - share:
            break
    # Records that are taken from the rest make no further group.
    rest = _others(ranks, max(budget - count, 0))
    whole = np.ones(len(records), np.bool_)
    whole[rest] = False
    octets = records.view((np.void, FLOW_RECORD.itemsize))
    merged = _merge(octets[rest].view(FLOW_RECORD), level)
    return np.concatenate((octets[whole], merged.view(octets.dtype))).view(FLOW_RECORD)


def _steps(budget: int) -> Iterator[tuple[int, Level]]:
    """Yield how many of the largest stay at least, and the level of the others."""
    for level in LEVELS[:-1]:
        yield budget // 2, level
    # Protocols are worth more than single flows.
    for level in LEVELS[-2:]:
        yield 0, level


class _Keys:
    """Keys of records at any level, as 64-bit words."""

    def __init__(self, records: NDArray[np.void]) -> None:
        self.ipv4 = records["etype"] == ETYPE_IPV4
        self.ends = {end: _address_words(records[f"{end}_addr"]) for end in ("src", "dst")}
        self.bits = {
            # A prefix cannot be longer than its address.
            end: np.minimum(records[f"{end}_net"], np.where(self.ipv4, _IPV4_BITS, _IPV6_BITS))
            for end in ("src", "dst")
        }
        self._proto = _word(records["proto"])
        self._attachment = _packed(
            (records["if_index"], 32), (records["etype"], 16), (records["flow_direction"], 8)
        ) << np.uint64(8)
        self._sampling = _word(records["sampling_rate"])
        self._ports = _packed(
            (records["src_port"], 16), (records["dst_port"], 16), (records["vlan_id"], 16),
            (records["icmp_type"], 8), (records["icmp_code"], 8),
        )  # fmt: skip
        self._apart = [
            numbers
            for name, limit in _SUMMED.items()
            if (numbers := _apart(_word(records[name]), limit)) is not None
        ]

    def prefix(self, end: str, bits: tuple[int, int]) -> tuple[NDArray[Any], Words]:
        """Prefix lengths of one end at a level, and its addresses masked to them, (n, 2)."""
        lengths = np.minimum(self.bits[end], np.where(self.ipv4, *bits))
        return lengths, self.ends[end] & _MASKS[lengths + np.where(self.ipv4, 96, 0)]

    def at(self, level: Level, some: NDArray[np.intp] | None) -> Words:
        """Keys at a level, shape (words, n), of all records or of those at these places."""
        src_bits, src = self.prefix("src", level.src)
        dst_bits, dst = self.prefix("dst", level.dst)
        words = [
            self._attachment | self._proto if level.proto else self._attachment,
            _packed((self._sampling, 32), (src_bits, 8), (dst_bits, 8)),
            *src.T, *dst.T, *self._apart,
        ]  # fmt: skip
        if level.ports:
            words.append(self._ports)
        return np.stack(words if some is None else [word[some] for word in words])


class _Groups(NamedTuple):
    """An order that puts the records of each group side by side, and where each group starts."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]


def _groups(words: Words) -> _Groups:
    """Group records whose keys are equal; ``words`` has shape (words, n).

    Two keys of the same hash may give more groups than there are keys, never a
    group of two keys.
    """
    order = np.argsort(hashes_of(words))
    begins = np.ones(len(order), np.bool_)
    begins[1:] = False
    for word in words:
        ordered = word[order]
        begins[1:] |= ordered[1:] != ordered[:-1]
    return _Groups(order, np.flatnonzero(begins))


def _merge(records: NDArray[np.void], level: Level) -> NDArray[np.void]:
    """Make one record of each group at a level; a record without others stays as it is."""
    keys = _Keys(records)
    order, starts = _groups(keys.at(level, None))
    octets = records.view((np.void, FLOW_RECORD.itemsize))
    merged = octets[order[starts]].view(FLOW_RECORD)
    sizes = np.diff(starts, append=len(order))
    group = np.repeat(np.arange(len(starts)), sizes)

    for name in _SUMMED:
        merged[name] = np.add.reduceat(_word(records[name])[order], starts)
    for name, reduce in _REDUCED:
        merged[name] = reduce.reduceat(_word(records[name])[order], starts)
    for name, other in (*((name, 0) for name in _SAME_OR_ZERO), ("proto", ANY_PROTO)):
        values = _comparable(records[name])[order]
        differs = np.logical_or.reduceat(values != values[starts][group], starts)
        merged[name][differs] = other
    several = sizes > 1
    for end, bits in (("src", level.src), ("dst", level.dst)):
        lengths, addresses = keys.prefix(end, bits)
        first = order[starts[several]]
        merged[f"{end}_net"][several] = lengths[first]
        masked = addresses[first].astype(">u8").view(np.uint8).reshape(-1, 16)
        merged[f"{end}_addr"][several] = masked
    return merged


def _ranks(records: NDArray[np.void], keys: _Keys) -> Words:
    """Rank records by size; 0 for those that stand for several hosts already.

    Those are always merged anew: else each call would leave others of the same prefix.
    """
    sizes = _word(records["l2_bytes"]) + np.uint64(1)
    hosts = np.where(keys.ipv4, _IPV4_BITS, _IPV6_BITS)
    sizes[(keys.bits["src"] < hosts) | (keys.bits["dst"] < hosts)] = 0
    return sizes


def _others(ranks: Words, count: int) -> NDArray[np.intp]:
    """Places of all but the ``count`` records of the highest rank; those of rank 0 are others."""
    if count == 0:
        return np.arange(len(ranks))
    places = np.argpartition(ranks, len(ranks) - count)
    high = places[len(ranks) - count :]
    return np.concatenate((places[: len(ranks) - count], high[ranks[high] == 0]))


def _apart(values: Words, limit: int) -> Words | None:
    """Number records so that those of one number sum to less than ``limit``.

    None where all of them do, as in practice: an hour at 1 Tbit/s is 2^49 octets.
    """
    if values.sum(dtype=np.float64) < limit / 2:
        return None
    numbers = (np.cumsum(values, dtype=np.float64) // (limit / 4)).astype(np.uint64)
    # Of the others at most a quarter of the limit has the same number, and the first of them.
    large = np.flatnonzero(values >= np.uint64(limit // 2))
    numbers[large] = np.arange(len(large), dtype=np.uint64) + np.uint64(2**62)
    return numbers


def _address_words(addresses: NDArray[np.uint8]) -> Words:
    """Addresses of shape (n, 16) as two numbers each, shape (n, 2)."""
    return np.ascontiguousarray(addresses).view(">u8").astype(np.uint64)


def _word(column: NDArray[Any]) -> Words:
    return column.astype(np.uint64)


def _packed(*columns: tuple[NDArray[Any], int]) -> Words:
    """Pack columns, each with its number of bits, into one number; the last one is lowest."""
    words = np.zeros(len(columns[0][0]), np.uint64)
    for column, bits in columns:
        words <<= np.uint64(bits)
        words |= _word(column)
    return words


def _comparable(column: NDArray[Any]) -> NDArray[Any]:
    """One number per record, also of octets of shape (n, 6)."""
    if column.ndim == 1:
        return column
    octets = np.zeros((len(column), 8), np.uint8)
    octets[:, : column.shape[1]] = column
    return octets.view(np.uint64).ravel()


def _prefix_masks() -> Words:
    """Masks of prefixes of 0 to 128 bits, shape (129, 2)."""
    masks = [((1 << bits) - 1) << (128 - bits) for bits in range(129)]
    return np.array([(mask >> 64, mask & (1 << 64) - 1) for mask in masks], np.uint64)


_MASKS: Final = _prefix_masks()

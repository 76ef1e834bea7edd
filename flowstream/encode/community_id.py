"""Community ID, version 1, seed 0: the name of a flow in both directions that many tools share.

https://github.com/corelight/community-id-spec
"""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha1
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.encode.value_builder import rows_bytes
from flowstream.records.text import V4_MAPPED

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH: Final = 30
"""Octets of "1:" and the base64 text of a SHA-1."""

_ICMP, _TCP, _UDP, _ICMPV6, _SCTP = 1, 6, 17, 58, 132
_SEED: Final = np.zeros(2, np.uint8)
_V4_MAPPED: Final = np.frombuffer(V4_MAPPED, np.uint32)


def _table(pairs: list[tuple[int, int]]) -> NDArray[np.int16]:
    """For each ICMP type the type that answers it, -1 where there is none."""
    table = np.full(256, -1, np.int16)
    for one, other in pairs:
        table[one], table[other] = other, one
    return table


_ANSWERS: Final = {
    _ICMP: _table([(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)]),
    _ICMPV6: _table([(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)]),
}


def community_ids(records: NDArray[np.void]) -> NDArray[np.uint8]:
    """ASCII text of each record's Community ID, shape (n, 30).

    ``records`` has shape (n,) and dtype FLOW_RECORD. A fragment past the first
    counts with the ports 0, as in its record.
    """
    proto = records["proto"]
    src, dst = records["src_addr"], records["dst_addr"]
    src_port, dst_port, one_way = _ports(records)
    swap = ~one_way & ~_ordered(src, dst, src_port, dst_port)
    src, dst = np.where(swap[:, None], dst, src), np.where(swap[:, None], src, dst)
    ports = np.stack(
        (np.where(swap, dst_port, src_port), np.where(swap, src_port, dst_port)), 1
    ).astype(">u2")
    has_ports = np.isin(proto, (_ICMP, _TCP, _UDP, _ICMPV6, _SCTP))
    v4 = _is_v4(src) & _is_v4(dst)
    # A byte more makes whole groups of three; the character that it adds becomes "=".
    digests = np.zeros((len(records), 21), np.uint8)
    for group, first in ((v4, 12), (~v4, 0)):
        for members, port_octets in ((group & has_ports, 4), (group & ~has_ports, 0)):
            count = int(members.sum())
            if count:
                parts = (
                    np.broadcast_to(_SEED, (count, 2)),
                    src[members, first:],
                    dst[members, first:],
                    np.stack((proto[members], np.zeros(count, np.uint8)), 1),
                    ports[members].view(np.uint8)[:, :port_octets],
                )
                digests[members, :20] = _hashed(np.concatenate(parts, axis=1))
    texts = np.empty((len(records), LENGTH), np.uint8)
    texts[:, :2] = np.frombuffer(b"1:", np.uint8)
    texts[:, 2:] = np.frombuffer(b2a_base64(digests.data, newline=False), np.uint8).reshape(-1, 28)
    texts[:, -1] = ord("=")
    return texts


def _hashed(messages: NDArray[np.uint8]) -> NDArray[np.uint8]:
    digests = [sha1(row, usedforsecurity=False).digest() for row in rows_bytes(messages)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)


def _ports(
    records: NDArray[np.void],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.bool_]]:
    """Ports, or what stands for them in ICMP, and whether a record has one direction only."""
    proto, kind = records["proto"], records["icmp_type"]
    src_port = records["src_port"].astype(np.uint16)
    dst_port = records["dst_port"].astype(np.uint16)
    one_way = np.zeros(len(records), np.bool_)
    for number, answers in _ANSWERS.items():
        is_icmp = proto == number
        answer = answers[kind[is_icmp]]
        src_port[is_icmp] = kind[is_icmp]
        dst_port[is_icmp] = np.where(answer < 0, records["icmp_code"][is_icmp], answer)
        one_way[is_icmp] = answer < 0
    return src_port, dst_port, one_way


def _ordered(
    src: NDArray[np.uint8],
    dst: NDArray[np.uint8],
    src_port: NDArray[np.uint16],
    dst_port: NDArray[np.uint16],
) -> NDArray[np.bool_]:
    """Whether (address, port) of the source comes before the destination's."""
    (src_high, src_low), (dst_high, dst_low) = (
        np.ascontiguousarray(end).view(">u8").astype(np.uint64).T for end in (src, dst)
    )
    ordered: NDArray[np.bool_] = (src_high < dst_high) | (
        (src_high == dst_high)
        & ((src_low < dst_low) | ((src_low == dst_low) & (src_port < dst_port)))
    )
    return ordered


def _is_v4(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mapped: NDArray[np.bool_] = (
        np.ascontiguousarray(addresses[:, :12]).view(np.uint32) == _V4_MAPPED
    ).all(axis=1)
    return mapped

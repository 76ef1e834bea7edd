"""Community IDs of a whole batch; ``flowstream.records.community_id`` has that of one record."""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha1
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.encode.columns import is_ipv4
from flowstream.encode.value_builder import bytes_of
from flowstream.records.community import ICMP_ANSWERS, WITH_PORTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH: Final = 30
"""Octets of "1:" and the base64 text of a SHA-1."""

_SEED: Final = np.zeros(2, np.uint8)


def _table(answers: dict[int, int]) -> NDArray[np.int16]:
    """For each ICMP type the type of its answer, -1 where there is none."""
    table = np.full(256, -1, np.int16)
    table[list(answers)] = list(answers.values())
    return table


_ANSWERS: Final = {proto: _table(answers) for proto, answers in ICMP_ANSWERS.items()}


def community_ids(records: NDArray[np.void]) -> NDArray[np.uint8]:
    """ASCII text of each record's Community ID, shape (n, 30).

    ``records`` has shape (n,) and dtype FLOW_RECORD.
    """
    proto = records["proto"]
    src, dst = records["src_addr"], records["dst_addr"]
    src_port, dst_port, one_way = _ports(records)
    swap = ~one_way & ~_ordered(src, dst, src_port, dst_port)
    src, dst = np.where(swap[:, None], dst, src), np.where(swap[:, None], src, dst)
    ports = np.stack(
        (np.where(swap, dst_port, src_port), np.where(swap, src_port, dst_port)), 1
    ).astype(">u2")
    has_ports = np.isin(proto, WITH_PORTS)
    v4 = is_ipv4(records, "src_addr") & is_ipv4(records, "dst_addr")
    # 21 bytes are whole groups of three; the last character, of the padding, becomes "=".
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
    digests = [sha1(message, usedforsecurity=False).digest() for message in bytes_of(messages)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)


def _ports(
    records: NDArray[np.void],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.bool_]]:
    """Ports, or for ICMP the numbers in their place; whether a flow has one direction only."""
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

"""Message keys, and the partitions that Kafka's default partitioner chooses for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.encode.hashes import MIX_1, MIX_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.records import CountersRecord

# Increment of splitmix64.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)

# Kafka's murmur2 (org.apache.kafka.common.utils.Utils): seed 0x9747b28c xor length 8.
_MURMUR_START: Final = np.uint32(0x9747B28C ^ 8)
_MURMUR_M: Final = np.uint32(0x5BD1E995)


def partition_keys(records: NDArray[np.void]) -> NDArray[np.uint8]:
    """Message key of each record: shape (n, 8), a 64-bit hash, big-endian.

    ``records`` has shape (n,) and dtype FLOW_RECORD. The hash covers the
    protocol and the unordered pair of (address, port): both directions of a
    flow have the same key, on every host, interface and VLAN.
    """
    ends = _endpoint(records, "src") + _endpoint(records, "dst")
    hashes = _mix(ends ^ (records["proto"].astype(np.uint64) * _GOLDEN))
    return hashes.astype(">u8").view(np.uint8).reshape(-1, 8)


def partitions(keys: NDArray[np.uint8], count: int) -> NDArray[np.uint32]:
    """Partition of each key, of ``count``, as Kafka's default partitioner chooses it.

    ``keys`` has shape (n, 8). Other producers, and streams that join on the
    same keys, meet these records in the same partitions.
    """
    words = np.ascontiguousarray(keys).view("<u4").astype(np.uint32)
    hashes = np.full(len(keys), _MURMUR_START)
    for word in (words[:, 0], words[:, 1]):
        mixed = word * _MURMUR_M
        mixed ^= mixed >> np.uint32(24)
        hashes *= _MURMUR_M
        hashes ^= mixed * _MURMUR_M
    hashes ^= hashes >> np.uint32(13)
    hashes *= _MURMUR_M
    hashes ^= hashes >> np.uint32(15)
    return (hashes & np.uint32(0x7FFF_FFFF)) % np.uint32(count)


def counters_key(record: CountersRecord) -> bytes:
    """Message key of a counters record: ``HOST_ID/AGENT_EPOCH/IF_INDEX/DIRECTION``.

    A compacted topic keeps the latest record of each run, interface and direction.
    """
    return (
        f"{record.host_id.hex()}/{record.agent_epoch}/{record.if_index}/{record.flow_direction}"
    ).encode()


def counters_partition(record: CountersRecord, count: int) -> int:
    """Partition of a counters record, of ``count``: all of one host's are in one, in order.

    It is the partition of a key that consists of the first 8 octets of ``host_id``.
    """
    key = np.frombuffer(record.host_id[:8], np.uint8).reshape(1, 8)
    return int(partitions(key, count)[0])


def _endpoint(records: NDArray[np.void], end: str) -> NDArray[np.uint64]:
    """Hash of one end's address and port: big-endian, so alike on every machine."""
    words = np.ascontiguousarray(records[f"{end}_addr"]).view(">u8").astype(np.uint64)
    port = records[f"{end}_port"].astype(np.uint64)
    return _mix(_mix(words[:, 0] + _GOLDEN) ^ words[:, 1] ^ (port << np.uint64(48)))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalize splitmix64: spread each number over all 64 bits, one to one, in place."""
    x ^= x >> np.uint64(30)
    x *= MIX_1
    x ^= x >> np.uint64(27)
    x *= MIX_2
    x ^= x >> np.uint64(31)
    return x

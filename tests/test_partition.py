"""Keys and partitions: both directions together, as Kafka's own partitioner puts them."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st
from support.records import flow_records, random_flows

from flowstream.encode import partition_keys, partitions

addresses = st.binary(min_size=16, max_size=16)
ports = st.integers(0, 0xFFFF)


def octets(value: bytes) -> np.ndarray:
    return np.frombuffer(value, np.uint8)


def key(source: tuple[bytes, int], destination: tuple[bytes, int], **columns: int) -> bytes:
    records = flow_records(
        1,
        src_addr=octets(source[0]),
        src_port=source[1],
        dst_addr=octets(destination[0]),
        dst_port=destination[1],
        **columns,
    )
    return partition_keys(records).tobytes()


@given(st.tuples(addresses, ports), st.tuples(addresses, ports), st.integers(0, 255))
def test_both_directions_have_one_key(one, other, proto):
    assert key(one, other, proto=proto) == key(other, one, proto=proto)


ONE = bytes.fromhex("20010db8000000000000000000000001"), 1_009
OTHER = bytes.fromhex("20010db8000000010000000000000001"), 443


@pytest.mark.parametrize(
    ("one", "other", "proto"),
    [
        (ONE, OTHER, 17),
        ((ONE[0], OTHER[1]), (OTHER[0], ONE[1]), 6),
        ((ONE[0], 1_010), OTHER, 6),
        (ONE, (OTHER[0], 444), 6),
        ((bytes(15) + b"\1", 1_009), OTHER, 6),
        ((b"\1" + ONE[0][1:], 1_009), OTHER, 6),
        (ONE, ONE, 6),
        (OTHER, OTHER, 6),
    ],
)
def test_any_other_conversation_has_another_key(one, other, proto):
    assert key(ONE, OTHER, proto=6) != key(one, other, proto=proto)


def test_interface_vlan_and_icmp_type_do_not_matter():
    elsewhere = {
        "if_index": 5,
        "flow_direction": 1,
        "vlan_id": 101,
        "icmp_type": 8,
        "icmp_code": 1,
    }
    assert key(ONE, OTHER, proto=6) == key(ONE, OTHER, proto=6, **elsewhere)


def test_key_is_the_same_on_every_machine():
    # Golden: a key that changed would send a flow to another partition after an upgrade.
    assert key(ONE, OTHER, proto=6).hex() == "f294242187c20b75"


GOLDEN_RATIO = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 % 2**64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def end(address: bytes, port: int) -> int:
    high, low = int.from_bytes(address[:8]), int.from_bytes(address[8:])
    return mix(mix((high + GOLDEN_RATIO) % 2**64) ^ low ^ port << 48)


@given(st.tuples(addresses, ports), st.tuples(addresses, ports), st.integers(0, 255))
def test_key_is_the_one_of_the_documents(one, other, proto):
    """docs/records.md gives this formula, for producers and readers of other languages."""
    both = (end(*one) + end(*other)) % 2**64
    expected = mix(both ^ proto * GOLDEN_RATIO % 2**64)
    assert key(one, other, proto=proto) == expected.to_bytes(8)


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=20), st.integers(1, 1_000))
def test_partition_is_that_of_kafkas_default_partitioner(keys, count):
    array = octets(b"".join(keys)).reshape(-1, 8)
    expected = [(murmur2(key) & 0x7FFF_FFFF) % count for key in keys]
    assert partitions(array, count).tolist() == expected


@pytest.mark.parametrize("count", [2, 12, 97])
def test_flows_spread_evenly(count):
    n = 100_003
    keys = partition_keys(random_flows(n))
    observed = np.bincount(partitions(keys, count), minlength=count)
    expected = n / count
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    # Mean count - 1, standard deviation sqrt(2 (count - 1)): six of them are never chance.
    assert chi_square < count - 1 + 6 * np.sqrt(2 * (count - 1))
    assert len(np.unique(keys, axis=0)) > n - 3


def test_ports_in_sequence_spread_evenly():
    n = 10_007
    records = flow_records(n, proto=17, src_port=np.arange(n), dst_port=53)
    observed = np.bincount(partitions(partition_keys(records), 7), minlength=7)
    assert abs(observed - n / 7).max() < 0.1 * n / 7


def test_no_records_no_keys():
    keys = partition_keys(flow_records(0))
    assert keys.shape == (0, 8)
    assert partitions(keys, 3).tolist() == []

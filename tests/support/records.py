"""Flow records as the kernel and the drain hand them on, made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.records import CountersRecord, Loss, StageCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = [
    name
    for name in FLOW_RECORD.names or ()
    if not name.startswith(("tag_", "size_")) and name != "array_fields"
]
INTEGER_TAGS = {1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}

COUNTERS = CountersRecord(
    record_type=3,
    schema_version=1,
    agent_epoch=1_700_000_000_000_000_003,
    host_id=bytes(range(16)),
    seq=7,
    host="host-a",
    in_if=3,
    in_if_name="eth0",
    program_name="xdp_flow",
    program_id=41,
    xdp_mode="native",
    time_unix_ns=1_700_000_001_000_000_007,
    time_boot_ns=17_000_000_019,
    rx_packets=1_009,
    rx_bytes=100_003,
    non_ip_packets=2,
    non_ip_bytes=84,
    malformed_packets=3,
    malformed_bytes=61,
    sampled_out_packets=0,
    sampled_out_bytes=0,
    counted_packets=0,
    counted_bytes=0,
    losses={"overflow_lost": Loss(5, 5, 302), "delivery_timeout": Loss(2, 11, 1_103)},
    flows=StageCounts(31, 31, 29, 23, 0, 2),
    new_flows=StageCounts(13, 13, 13, 13, 0, 0),
    table_entries=17,
    table_capacity=131_072,
    table_swaps=5,
    final=True,
)


def flow_records(n: int, **columns: Any) -> NDArray[np.void]:
    """``n`` records with every MessagePack tag in place; the columns given, else zero."""
    records = np.zeros(n, FLOW_RECORD)
    records["tag_array"] = 0xDC
    records["array_fields"] = len(FIELDS)
    for name in FIELDS:
        field = FLOW_RECORD[name]
        if name == "in_if_name":
            records[f"tag_{name}"] = 0xA0 | field.itemsize
        elif field.subdtype:
            records[f"tag_{name}"] = 0xC4
            records[f"size_{name}"] = field.itemsize
        else:
            records[f"tag_{name}"] = INTEGER_TAGS[field.itemsize]
    records["record_type"] = 1
    records["schema_version"] = 1
    for name, values in columns.items():
        records[name] = values
    return records


def random_flows(n: int, seed: int = 7) -> NDArray[np.void]:
    """``n`` plausible IPv4 TCP flows between two networks."""
    rng = np.random.default_rng(seed)
    packets = rng.integers(1, 1_009, n)
    return flow_records(
        n,
        etype=0x0800,
        proto=6,
        src_addr=random_addresses(rng, n),
        dst_addr=random_addresses(rng, n),
        src_port=rng.integers(1_024, 1 << 16, n),
        dst_port=443,
        in_if=3,
        packets=packets,
        bytes=packets * 501,
        l2_bytes=packets * 515,
    )


def random_addresses(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    """``n`` v4-mapped addresses of 10.0.0.0/8, shape (n, 16)."""
    addresses = np.zeros((n, 16), np.uint8)
    addresses[:, 10:12] = 0xFF
    addresses[:, 12] = 10
    addresses[:, 13:] = rng.integers(0, 256, (n, 3))
    return addresses

"""Flow records as they come from the kernel or a drained table, and a counters record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowstream.encode import Encoder, Prefixes, make_encoder
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import Amount, CountersRecord, Loss, RecordType, SpoolCounts, StageCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.accounting.identity import Identity

FIELDS = [
    name
    for name in FLOW_RECORD.names or ()
    if not name.startswith(("tag_", "size_")) and name != "array_fields"
]
EPOCH = 1_700_000_000_000_000_000
SAMPLER = bytes(10) + b"\xff\xff\xc0\0\2\1"
"""The agent's own address: 192.0.2.1."""
INTEGER_TAGS = {1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}

COUNTERS = CountersRecord(
    record_type=3,
    schema_version=1,
    agent_epoch=EPOCH,
    host_id=bytes(range(16)),
    sampler_address=SAMPLER,
    seq=7,
    host="host-a",
    agent_version="0.1.0",
    if_index=3,
    if_name="eth0",
    flow_direction=1,
    program_name="xdp_flow",
    program_id=41,
    attach_mode="native",
    time_unix_ns=1_700_000_001_000_000_007,
    time_boot_ns=17_000_000_019,
    interval_ns=5_000_000_000,
    counters_period_ns=1_000_000_000,
    seen_packets=1_009,
    seen_l2_bytes=100_003,
    no_flow={
        "non_ip": Amount(2, 84),
        "malformed": Amount(3, 61),
        "sampled_out": Amount(0, 0),
        "counted": Amount(0, 0),
        "a reason of a newer version": Amount(5, 331),
    },
    losses={"overflow_lost": Loss(5, 5, 302), "delivery_timeout": Loss(2, 11, 1_103)},
    in_doubt={"delivery_timeout": Loss(1, 17, 1_709), "shutdown": Loss(0, 0, 0)},
    stages={
        "flows": StageCounts(31, 31, 29, 23, 0, 2, 3),
        "new_flows": StageCounts(13, 13, 13, 13, 0, 0, 0),
    },
    table_entries=17,
    table_capacity=131_072,
    table_swaps=5,
    final=True,
    spool=SpoolCounts(3, 37, 4_003, 1_048_583, 1_700_000_000_300_000_001),
    netns="pid:4177",
    previous_epoch=EPOCH - 1_024 * 10**9,
)
# A registry's prefixes, which Avro cannot do without.
PREFIXES = {
    "protobuf": Prefixes({kind: bytes([0, 0, 0, 0, kind, 0]) for kind in RecordType}),
    "avro": Prefixes({kind: bytes([0, 0, 0, 0, kind]) for kind in RecordType}),
}


def encoder_of(record_format: str, identity: Identity, **options: Any) -> Encoder:
    """Encoder as an agent makes it: Avro's values start with a registry's prefix."""
    if record_format == "avro":
        options["prefixes"] = PREFIXES["avro"]
    return make_encoder(record_format, identity, **options)


def flow_records(n: int, **columns: Any) -> NDArray[np.void]:
    """``n`` records with every MessagePack tag in place; the columns given, else zero."""
    records = np.zeros(n, FLOW_RECORD)
    records["tag_array"] = 0xDC
    records["array_fields"] = len(FIELDS)
    for name in FIELDS:
        field = FLOW_RECORD[name]
        if name == "if_name":
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
        if_index=3,
        packets=packets,
        src_net=32,
        dst_net=32,
        flow_count=1,
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

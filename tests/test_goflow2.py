"""Protobuf as GoFlow2's own published class reads it (tests/goflow2, in Go)."""

from __future__ import annotations

import base64
import json
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.go import built
from support.records import EPOCH, SAMPLER, flow_records

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder, stamp
from flowstream.records import FlowRecord, decode

READER = Path(__file__).parent / "goflow2"
IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0", 5: "eth1"})
FIRST_SEQ = 2**32 + 1_009

Cases = dict[str, dict[str, Any]]


def address(text: str) -> np.ndarray:
    """16 octets, IPv4 v4-mapped."""
    packed = ip_address(text).packed
    return np.frombuffer(packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed, "u1")


V4 = {
    "etype": 0x0800,
    "src_addr": address("10.0.0.1"),
    "dst_addr": address("192.0.2.255"),
    "src_net": 32,
    "dst_net": 32,
}
V6 = {
    "etype": 0x86DD,
    "src_addr": address("2001:db8::1"),
    "dst_addr": address("fe80::101"),
    "src_net": 128,
    "dst_net": 128,
}
TCP = {"proto": 6, "src_port": 40_009, "dst_port": 443, "tcp_flags": 0x1B}
CASES: Cases = {
    "IPv4": V4 | TCP | {"if_index": 3},
    "IPv6": V6 | TCP | {"if_index": 5, "flow_direction": 1},
    "VLAN": V4 | TCP | {"vlan_id": 4_093, "ip_tos": 0xB8, "if_index": 3},
    "ICMP": V4 | {"proto": 1, "icmp_type": 8, "icmp_code": 3, "if_index": 3},
    "ICMPv6": V6 | {"proto": 58, "icmp_type": 129, "icmp_code": 5, "if_index": 5},
    "v4-mapped": V6
    | TCP
    | {"src_addr": address("::ffff:10.0.0.1"), "dst_addr": address("::ffff:10.0.0.2")},
    "aggregated": V4 | {"proto": 17, "src_net": 24, "dst_net": 16, "flow_count": 17},
    "announcement": V4 | TCP | {"record_type": 2, "packets": 0, "bytes": 0, "l2_bytes": 0},
    "nothing but zeros": {"src_mac": 0, "dst_mac": 0, "sampling_rate": 0},
}
# Addresses by GoFlow2's class: 4 octets where the packet is IPv4's.
ADDRESSES = {
    "IPv4": ("10.0.0.1", "192.0.2.255"),
    "IPv6": ("2001:db8::1", "fe80::101"),
    "v4-mapped": ("::ffff:10.0.0.1", "::ffff:10.0.0.2"),
}
SAME = (
    *("time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "sampling_rate"),
    *("bytes", "packets", "etype", "proto", "src_port", "dst_port", "src_net", "dst_net"),
    *("vlan_id", "ip_tos", "ip_ttl", "tcp_flags", "icmp_type", "icmp_code"),
)
# Fields that flowstream knows nothing of, as they are when they are not set.
UNSET = {
    "type": "FLOWUNKNOWN",
    **{name: [] for name in ("as_path", "bgp_communities", "layer_size", "layer_stack")},
    **{name: [] for name in ("mpls_ip", "mpls_label", "mpls_ttl")},
    "ipv6_routing_header_addresses": [],
    **dict.fromkeys(("bgp_next_hop", "next_hop"), ""),
    **dict.fromkeys(("dst_as", "dst_vlan", "forwarding_status", "fragment_id"), 0),
    **dict.fromkeys(("fragment_offset", "ip_flags", "ipv6_flow_label", "next_hop_as"), 0),
    **dict.fromkeys(("ipv6_routing_header_seg_left", "observation_domain_id"), 0),
    **dict.fromkeys(("observation_point_id", "src_as", "src_vlan"), 0),
}


@pytest.fixture(scope="module")
def reader() -> Path:
    return built(READER)


def records() -> np.ndarray:
    found = flow_records(
        len(CASES),
        time_received_ns=EPOCH + 5_000_000_023,
        time_flow_start_ns=EPOCH + 19,
        time_flow_end_ns=EPOCH + 4_999_999_999,
        ip_ttl=61,
        flow_count=1,
        sampling_rate=7,
        src_mac=[2, 0, 0, 0, 0, 0xFE],
        dst_mac=[0xFF] * 6,
        packets=1_009,
        bytes=2**53 + 1,
        l2_bytes=2**53 + 14_127,
    )
    for record, columns in zip(found, CASES.values(), strict=True):
        for name, value in columns.items():
            record[name] = value
    stamp(found, IDENTITY, FIRST_SEQ)
    return found


def expected(record: FlowRecord) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(record, name) for name in SAME}
    direction = record.flow_direction
    return fields | {
        "sequence_num": record.seq - 2**32,
        "sampler_address": "192.0.2.1",
        "src_addr": str(record.source),
        "dst_addr": str(record.destination),
        "in_if": 0 if direction else record.if_index,
        "out_if": record.if_index if direction else 0,
        "src_mac": int.from_bytes(record.src_mac),
        "dst_mac": int.from_bytes(record.dst_mac),
    }


def read(fields: dict[str, Any]) -> dict[str, object]:
    """protojson's output: 64-bit integers are text there, octets base64."""
    found = dict(fields)
    for name in ("src_addr", "dst_addr", "sampler_address"):
        found[name] = str(ip_address(base64.b64decode(found[name])))
    for name, value in found.items():
        if isinstance(value, str) and value.isdecimal():
            found[name] = int(value)
    return found


def test_every_field_of_goflow2(reader: Path) -> None:
    flows = records()
    values = make_encoder("protobuf", IDENTITY, community_id=True).encode(flows)
    done = subprocess.run(
        [reader], input=b"".join(values), capture_output=True, check=True, timeout=60
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    for name, message, value in zip(CASES, messages, values, strict=True):
        record = decode(value)
        assert isinstance(record, FlowRecord)
        assert read(message["fields"]) == expected(record) | UNSET, name
        # Our own fields, which GoFlow2's class keeps.
        assert message["unknown"] > 0
    for name, addresses in ADDRESSES.items():
        found = read(messages[list(CASES).index(name)]["fields"])
        # Python's text of v4-mapped addresses depends on its version.
        texts = [str(ip_address(text)) for text in addresses]
        assert [found["src_addr"], found["dst_addr"]] == texts, name


def test_goflow2_notices_a_value_that_is_cut(reader: Path) -> None:
    (value, *_) = make_encoder("protobuf", IDENTITY).encode(records())
    done = subprocess.run([reader], input=value[:-1], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"unexpected EOF" in done.stderr

"""Names of JSON: every profile against its golden file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from support.columns import any_columns
from support.records import COUNTERS, EPOCH, SAMPLER, flow_records

from flowstream.accounting.identity import Identity
from flowstream.encode import PROFILES, make_encoder, stamp
from flowstream.errors import DecodeError
from flowstream.records import decode

GOLDEN = Path(__file__).parent / "golden"
IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0", 5: "br-0"})
START = 1_700_000_017_000_000_019

each_profile = pytest.mark.parametrize("names", PROFILES)


def records() -> np.ndarray:
    """A TCP flow, an announced ICMPv6 flow in a VLAN, an aggregated one that left by egress."""
    found = flow_records(3, sampling_rate=7, time_received_ns=START + 5_000_000_023)
    found["record_type"] = [1, 2, 1]
    found["time_flow_start_ns"] = START
    found["time_flow_end_ns"] = [START + 4_999_999_999, START, START]
    found["etype"] = [0x0800, 0x86DD, 0x0800]
    found["proto"] = [6, 58, 253]
    found["src_addr"][:, 10:] = [0xFF, 0xFF, 10, 0, 0, 1]
    found["dst_addr"][:, 10:] = [0xFF, 0xFF, 10, 0, 0, 2]
    found["src_addr"][2, 15], found["dst_addr"][2, 14:] = 0, 0
    found["src_addr"][1] = np.frombuffer(bytes.fromhex("20010db8" + 23 * "0" + "1"), np.uint8)
    found["dst_addr"][1] = np.frombuffer(bytes.fromhex("20010db8" + 23 * "0" + "2"), np.uint8)
    found["src_port"] = [40_009, 0, 0]
    found["dst_port"] = [443, 0, 0]
    found["icmp_type"] = [0, 128, 0]
    found["tcp_flags"] = [0x1B, 0, 0]
    found["ip_tos"] = [0xB8, 0, 0]
    found["ip_ttl"] = [61, 255, 1]
    found["vlan_id"] = [0, 4_093, 0]
    found["src_net"] = [32, 128, 24]
    found["dst_net"] = [32, 128, 16]
    found["if_index"] = [3, 5, 3]
    found["flow_direction"] = [0, 0, 1]
    found["flow_count"] = [1, 1, 17]
    found["src_mac"] = [2, 0, 0, 0, 0, 0xFE]
    found["dst_mac"] = [2, 0, 0, 0, 0, 1]
    found["packets"] = [1_009, 0, 13]
    found["bytes"] = [2**53 + 1, 0, 1_001]
    found["l2_bytes"] = [2**53 + 14_127, 0, 1_183]
    found["end_reason"] = [2, 0, 5]
    stamp(found, IDENTITY, 2**32 + 1)
    return found


@each_profile
def test_golden(names):
    values = make_encoder("json", IDENTITY, names=names, community_id=True).encode(records())
    golden = (GOLDEN / f"{names}.jsonl").read_bytes()
    assert values == golden.splitlines()


@each_profile
def test_the_community_id_is_absent_unless_asked_for(names):
    values = make_encoder("json", IDENTITY, names=names).encode(records())
    golden = (GOLDEN / f"{names}.jsonl").read_bytes()
    assert b'"1:' not in b"".join(values)
    for value, line in zip(values, golden.splitlines(), strict=True):
        expected = json.loads(line)
        for part in (expected, expected.get("network", {})):
            for name in ("community_id", "CommunityId"):
                part.pop(name, None)
        assert json.loads(value) == expected


@each_profile
@given(columns=any_columns())
@settings(max_examples=50, deadline=None)
def test_any_flow_has_an_object_with_its_seq_and_run(names, columns):
    (value,) = make_encoder("json", IDENTITY, names=names).encode(flow_records(1, **columns))
    flat = str(json.loads(value))
    for name in ("seq", "agent_epoch", "packets", "bytes", "l2_bytes"):
        assert str(columns[name]) in flat
    assert columns["host_id"].tobytes().hex() in flat


@each_profile
def test_counters_have_one_set_of_names(names):
    value = make_encoder("json", IDENTITY, names=names).encode_counters(COUNTERS)
    assert decode(value) == COUNTERS


@pytest.mark.parametrize("names", ["ecs", "netobserv"])
def test_decode_says_that_it_reads_other_names(names):
    for value in make_encoder("json", IDENTITY, names=names).encode(records()):
        with pytest.raises(
            DecodeError, match="names of ecs or netobserv; only those of goflow2 can be read"
        ):
            decode(value)

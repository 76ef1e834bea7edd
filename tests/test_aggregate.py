"""Aggregation: sums stay exact whatever comes, the largest flows stay whole."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import FIELDS, flow_records, random_addresses, random_flows

from flowstream.layouts.flow import FLOW_RECORD
from flowstream.pipeline.aggregate import ANY_PROTO, aggregate

SUMMED = ("packets", "bytes", "l2_bytes", "flow_count")
LIMITS = dict(zip(SUMMED, (2**63, 2**63, 2**63, 2**32), strict=True))
SAME_OR_ZERO = (
    *("src_port", "dst_port", "icmp_type", "icmp_code", "ip_tos", "vlan_id"),
    *("src_mac", "dst_mac"),
)


def flows(n: int, **columns):
    """Flows between two networks, all different, as the table has them."""
    records = np.array(random_flows(n), FLOW_RECORD)
    records["src_net"] = records["dst_net"] = 32
    records["flow_count"] = records["sampling_rate"] = 1
    records["end_reason"] = 2
    for name, values in columns.items():
        records[name] = values
    return records


def address(text: str) -> np.ndarray:
    number = ipaddress.ip_address(text)
    mapped = bytes(10) + b"\xff\xff" + number.packed if number.version == 4 else number.packed
    return np.frombuffer(mapped, np.uint8)


def sums(records) -> dict[tuple[int, int], Counter]:
    """Exact sums per interface and direction."""
    totals: dict[tuple[int, int], Counter] = {}
    for record in records:
        key = int(record["if_index"]), int(record["flow_direction"])
        totals.setdefault(key, Counter()).update({name: int(record[name]) for name in SUMMED})
    return totals


def prefix(record, end: str):
    """The network that an address of a record stands for."""
    octets, length = record[f"{end}_addr"].tobytes(), int(record[f"{end}_net"])
    if record["etype"] == 0x0800:
        return ipaddress.ip_network((octets[12:], min(length, 32)))
    return ipaddress.ip_network((octets, min(length, 128)))


ADDRESSES = np.array(
    [
        address(text)
        for text in (
            "10.0.0.1",
            "10.0.0.2",
            "10.0.1.1",
            "10.1.0.1",
            "2001:db8::1",
            "2001:db8:1::1",
        )
    ]
)


@st.composite
def some_flows(draw):
    """Few keys with many clashes, and values of any size."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    records = flow_records(n)
    ipv4 = rng.integers(0, 2, n) == 1
    records["etype"] = np.where(ipv4, 0x0800, 0x86DD)
    for end in ("src", "dst"):
        which = np.where(ipv4, rng.integers(0, 4, n), rng.integers(4, 6, n))
        records[f"{end}_addr"] = ADDRESSES[which]
        records[f"{end}_net"] = np.where(ipv4, 32, 128)
    records["if_index"] = rng.integers(1, 3, n)
    records["flow_direction"] = rng.integers(0, 2, n)
    for name in (*SAME_OR_ZERO, "tcp_flags", "ip_ttl", "time_received_ns"):
        shape = records[name].shape
        records[name] = rng.integers(0, 1 + draw(st.integers(0, 3)), shape)
    records["proto"] = rng.choice((6, 17), n)
    records["sampling_rate"] = rng.choice((1, 1, 1, 10), n)
    records["end_reason"] = rng.choice((2, 4, 5), n)
    for name in ("time_flow_start_ns", "time_flow_end_ns", "packets", "bytes", "l2_bytes"):
        records[name] = rng.integers(0, 1 << draw(st.sampled_from((1, 11, 32, 60, 63))), n)
    records["flow_count"] = rng.integers(1, 1 << draw(st.sampled_from((1, 17, 32))), n)
    return records


FLOOR_KEY = ("if_index", "flow_direction", "etype", "sampling_rate")


def floor(records) -> int:
    return len({tuple(record[name] for name in FLOOR_KEY) for record in records})


@given(records=some_flows(), budget=st.integers(0, 45))
@settings(max_examples=300, deadline=None)
def test_sums_are_exact_for_any_records_and_any_budget(records, budget):
    before = records.copy()
    merged = aggregate(records, budget)
    assert records.tobytes() == before.tobytes(), "the input is only read"
    assert sums(merged) == sums(records)
    for name, limit in LIMITS.items():
        assert all(int(value) < limit for value in merged[name])
    if all(sum(map(int, records[name])) < limit / 2 for name, limit in LIMITS.items()):
        assert len(merged) <= max(budget, floor(records))


@given(records=some_flows(), budget=st.integers(0, 45))
@settings(max_examples=300, deadline=None)
def test_a_merged_record_says_only_what_its_flows_have_in_common(records, budget):
    merged = aggregate(records, budget)
    whole = {record.tobytes() for record in records}
    for record in merged:
        if record.tobytes() in whole:
            continue
        among = [
            flow
            for flow in records
            if all(flow[name] == record[name] for name in FLOOR_KEY)
            and prefix(flow, "src").subnet_of(prefix(record, "src"))
            and prefix(flow, "dst").subnet_of(prefix(record, "dst"))
            and record["proto"] in (flow["proto"], ANY_PROTO)
        ]
        assert len(among) > 1
        for name in SAME_OR_ZERO:
            assert not record[name].any() or any((f[name] == record[name]).all() for f in among)
        assert record["ip_ttl"] in [flow["ip_ttl"] for flow in among]
        assert record["end_reason"] in [flow["end_reason"] for flow in among]


def test_a_batch_within_the_budget_is_passed_through_untouched():
    records = flows(101)
    assert aggregate(records, 101) is records
    once = aggregate(records, 53)
    assert aggregate(once, 53) is once


def test_the_largest_flows_stay_as_they_are():
    records = flows(10_007)
    merged = aggregate(records, 1_009)
    assert len(merged) <= 1_009
    largest = np.sort(records["l2_bytes"].astype(np.uint64))[::-1][:504]
    alone = {record.tobytes() for record in merged[merged["flow_count"] == 1]}
    by_size = records[records["l2_bytes"].astype(np.uint64) > largest[-1]]
    assert {record.tobytes() for record in by_size} <= alone
    assert sums(merged) == sums(records)


def test_a_budget_is_used_up_where_prefixes_leave_room():
    """What merged records do not need goes to further flows."""
    records = flows(10_007, src_addr=address("10.0.0.1"), dst_addr=address("10.0.0.2"))
    merged = aggregate(records, 1_009)
    assert len(merged) == 1_009
    (together,) = merged[merged["flow_count"] > 1]
    assert int(together["flow_count"]) == 10_007 - 1_008
    # Both hosts are still known; the port that all have in common too.
    assert (prefix(together, "src"), prefix(together, "dst")) == (
        ipaddress.ip_network("10.0.0.1/32"), ipaddress.ip_network("10.0.0.2/32"),
    )  # fmt: skip
    assert (together["src_port"], together["dst_port"], together["proto"]) == (0, 443, 6)


def test_records_of_one_flow_are_merged_before_anything_is_masked():
    records = np.tile(flows(101), 11)
    records["end_reason"][:303] = 5
    merged = aggregate(records, 202)
    assert len(merged) <= 202
    assert set(merged["src_net"].tolist()) == {32}
    assert sums(merged) == sums(records)
    ports = records["src_port"].tolist()
    assert set(merged["src_port"].tolist()) == set(ports)


LEVELS = {
    # sources, destinations → what stays of each
    "hosts of one network": ("10.0.0.{}", "10.9.0.1", "10.0.0.0/24", "10.9.0.1/32"),
    "two networks": ("10.0.0.{}", "10.9.0.{}", "10.0.0.0/24", "10.9.0.0/24"),
    "spoofed sources": ("{}.1.0.1", "10.9.0.1", "0.0.0.0/0", "10.9.0.1/32"),
    "a scan": ("10.0.0.1", "{}.1.0.1", "10.0.0.0/24", "0.0.0.0/0"),
    "anything": ("{}.1.0.1", "{}.2.0.1", "0.0.0.0/0", "0.0.0.0/0"),
    "hosts of one IPv6 network": ("2001:db8:0:{}::1", "::1", "2001:db8::/48", "::1/128"),
    "spoofed IPv6 sources": ("2{}::1", "::1", "::/0", "::1/128"),
}  # fmt: skip


@pytest.mark.parametrize(("src", "dst", "src_net", "dst_net"), LEVELS.values(), ids=LEVELS)
def test_prefixes_are_as_long_as_the_budget_allows(src, dst, src_net, dst_net):
    records = flows(101)
    for number, record in enumerate(records, 101):
        record["src_addr"], record["dst_addr"] = (
            address(text.format(number)) for text in (src, dst)
        )
    if ":" in src:
        records["etype"] = 0x86DD
        records["src_net"] = records["dst_net"] = 128
    merged = aggregate(records, 7)
    together = merged[merged["flow_count"] > 1]
    assert len(merged) == 7
    assert {prefix(record, "src").with_prefixlen for record in together} == {src_net}
    assert {prefix(record, "dst").with_prefixlen for record in together} == {dst_net}
    assert sums(merged) == sums(records)


def test_protocols_are_merged_last():
    records = flows(4 * 101, proto=np.repeat((6, 17, 47, 50), 101))
    records["src_addr"] = random_addresses(np.random.default_rng(3), 404) ^ np.uint8(85)
    assert sorted(aggregate(records, 4)["proto"].tolist()) == [6, 17, 47, 50]
    (one,) = aggregate(records, 3)[aggregate(records, 3)["flow_count"] > 1]
    assert one["proto"] == ANY_PROTO
    (one,) = aggregate(records, 0)
    assert (one["proto"], one["flow_count"]) == (ANY_PROTO, 404)


def test_what_cannot_be_added_is_combined():
    records = flows(
        3,
        src_addr=address("10.0.0.1"),
        dst_addr=address("10.0.0.2"),
        tcp_flags=(2, 16, 1),
        ip_ttl=(64, 61, 63),
        end_reason=(2, 5, 4),
        time_flow_start_ns=(300, 200, 400),
        time_flow_end_ns=(500, 900, 700),
        time_received_ns=(1_000, 1_001, 1_002),
        ip_tos=(4, 4, 4),
        vlan_id=(7, 7, 8),
    )
    (one,) = aggregate(records, 1)
    assert one["tcp_flags"] == 19
    assert one["ip_ttl"] == 61
    assert one["end_reason"] == 5
    assert [int(one[f"time_{name}_ns"]) for name in ("flow_start", "flow_end", "received")] == [
        200, 900, 1_002,
    ]  # fmt: skip
    assert (one["ip_tos"], one["vlan_id"]) == (4, 0)


def test_interfaces_directions_and_ethertypes_stay_apart():
    records = flows(8 * 101, if_index=np.tile((3, 5), 404), flow_direction=np.repeat((0, 1), 404))
    records["etype"][::8] = 0x86DD
    merged = aggregate(records, 1)
    assert len(merged) == floor(records) == 6
    assert sums(merged) == sums(records)


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_no_sum_leaves_its_field(name, limit):
    records = flows(101, src_addr=address("10.0.0.1"), dst_addr=address("10.0.0.2"))
    records[name] = limit // 7
    merged = aggregate(records, 1)
    assert 101 / 7 < len(merged) < 101
    assert sums(merged) == sums(records)


def test_merging_again_goes_on_where_it_stopped():
    """Held records are merged anew with those that came since: no prefix is there twice."""
    held = flows(0)
    seen = []
    for seed in range(20):
        fresh = np.array(random_flows(5_003, seed), FLOW_RECORD)
        for name in ("src_net", "dst_net", "flow_count", "sampling_rate", "end_reason"):
            fresh[name] = flows(1)[name]
        seen.append(fresh)
        held = aggregate(np.concatenate((held, fresh), dtype=FLOW_RECORD), 1_009)
        assert len(held) <= 1_009
    assert sums(held) == sums(np.concatenate(seen, dtype=FLOW_RECORD))
    together = held[held["flow_count"] > 1]
    keys = [
        record.tobytes() for record in together[["src_addr", "dst_addr", "src_net", "dst_net"]]
    ]
    assert len(keys) == len(set(keys))


def test_nothing_is_imported_while_records_are_merged():
    """The agent has no privileges by then, perhaps not even to read its installation."""
    script = """if True:
        import sys
        import numpy as np
        from flowstream.pipeline.limit import _merged
        from flowstream.layouts.flow import FLOW_RECORD
        records = np.zeros(1009, FLOW_RECORD)
        records["src_addr"][:, 15] = records["if_index"] = np.arange(1009) % 251
        before = set(sys.modules)
        for budget in (0, 7, 503):
            _merged([records.copy()], budget)
        print(sorted(set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_field_is_thought_of():
    """A field that is added must be summed, combined or kept."""
    kept = {
        *("record_type", "schema_version", "agent_epoch", "host_id", "sampler_address", "seq"),
        *("time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "etype", "proto"),
        *("src_addr", "dst_addr", "src_net", "dst_net", "tcp_flags", "ip_ttl", "if_index"),
        *("if_name", "sampling_rate", "end_reason", "flow_direction"),
    }
    assert {*kept, *SUMMED, *SAME_OR_ZERO} == set(FIELDS)

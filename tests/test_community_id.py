# ruff: noqa: E501 - a published table keeps its rows
"""Community IDs: the specification's published results, and its reference implementation."""

from __future__ import annotations

import ipaddress
import json

import communityid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import EPOCH, SAMPLER, encoder_of, flow_records, random_flows

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder, stamp
from flowstream.encode.community_id import community_ids
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import community_id, decode, decode_many

IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})

# baseline/baseline_deflt.json of https://github.com/corelight/community-id-spec.
# Of ICMP the first number is the type; the second is the code where no type answers it.
PUBLISHED = [
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0, "dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0, "dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 135, 0, "zavyT/cezQr1fmImYCwYnMXbgck="),
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 136, 0, "zavyT/cezQr1fmImYCwYnMXbgck="),
    (58, "3ffe:501:1800:2345::2", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0, "2ObVBgIn28oZvibYZhZMBgh7WdQ="),
    (58, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4, "hLZd0XGWojozrvxqE0dWB1iM6R0="),
    (58, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 128, 0, "+TW+HtLHvV1xnGhV1lv7XoJrqQg="),
    (58, "3ffe:501:0:1001::2", "3ffe:507:0:1:200:86ff:fe05:80da", 129, 0, "+TW+HtLHvV1xnGhV1lv7XoJrqQg="),
    (58, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 0, "hO+sN4H+MG5MY/8hIrXPqc4ZQz0="),
    (58, "fe80::260:97ff:fe07:69ea", "ff02::1", 134, 0, "pkvHqCL88/tg1k4cPigmZXUtL00="),
    (1, "192.168.0.89", "192.168.0.1", 8, 0, "X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.1", "192.168.0.89", 0, 0, "X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "10.0.0.1", "10.0.0.2", 11, 0, "YHxtAirCG//0OzkcVAukqKQN9xM="),
    (6, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25, "/qFaeAR+gFe1KYjMzVDsMv+wgU4="),
    (6, "2607:f8b0:400c:c03::1a", "2001:470:e5bf:dead:4957:2174:e82c:4887", 25, 63943, "/qFaeAR+gFe1KYjMzVDsMv+wgU4="),
    (132, "192.168.170.8", "192.168.170.56", 7, 7, "MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (132, "192.168.170.56", "192.168.170.8", 7, 7, "MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (6, "128.232.110.120", "66.35.250.204", 34855, 80, "LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "66.35.250.204", "128.232.110.120", 80, 34855, "LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (17, "192.168.1.52", "8.8.8.8", 54585, 53, "d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (17, "8.8.8.8", "192.168.1.52", 53, 54585, "d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (46, "10.1.12.1", "10.1.12.2", 0, 0, "KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
    (46, "10.1.12.2", "10.1.12.1", 0, 0, "KHlLkgoJW7ifUTyTSgyVfkFHzKw="),
]  # fmt: skip
ICMP = (1, 58)


def wire(text: str) -> np.ndarray:
    address = ipaddress.ip_address(text)
    mapped = bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed
    return np.frombuffer(mapped, np.uint8)


def record(proto, src, dst, first, second):
    names = ("icmp_type", "icmp_code") if proto in ICMP else ("src_port", "dst_port")
    columns = dict(zip(names, (first, second), strict=True))
    etype = 0x0800 if ipaddress.ip_address(src).version == 4 else 0x86DD
    return flow_records(
        1, etype=etype, proto=proto, src_addr=wire(src), dst_addr=wire(dst), **columns
    )


def texts(records) -> list[str]:
    """By columns, and the same record by record."""
    found = [each.tobytes().decode() for each in community_ids(records)]
    values = make_encoder("msgpack", IDENTITY).encode(records)
    assert [community_id(decode(value)) for value in values] == found
    return found


def test_the_published_results_in_one_batch():
    # Without the dtype numpy would make the fields native-endian.
    records = np.concatenate([record(*each[:5]) for each in PUBLISHED], dtype=FLOW_RECORD)
    assert texts(records) == [f"1:{each[5]}" for each in PUBLISHED]


addresses = st.one_of(
    st.ip_addresses(v=4).map(lambda a: bytes(10) + b"\xff\xff" + a.packed),
    # Few, so that both ends are often the same.
    st.sampled_from([bytes(15) + b"\1", bytes(16), bytes(10) + b"\xff\xff\x0a\0\0\1"]),
    st.binary(min_size=16, max_size=16),
)
flows = st.tuples(
    st.sampled_from([0x0800, 0x86DD]),
    st.sampled_from([1, 6, 17, 33, 46, 58, 132, 136]) | st.integers(0, 255),
    *(addresses, addresses),
    *(st.integers(0, 65_535) | st.just(7), st.integers(0, 65_535) | st.just(7)),
    *(st.integers(0, 255), st.integers(0, 255)),
)


def expected(etype, proto, src, dst, src_port, dst_port, icmp_type, icmp_code) -> str:
    """Community ID of the same flow by the reference implementation."""
    mapped = bytes(10) + b"\xff\xff"
    # An IPv6 packet stays one, whatever its addresses are.
    if etype == 0x0800 and src.startswith(mapped) and dst.startswith(mapped):
        src, dst = src[12:], dst[12:]
    ports = {1: (icmp_type, icmp_code), 58: (icmp_type, icmp_code)}.get(
        proto, (src_port, dst_port)
    )
    if proto not in (1, 6, 17, 58, 132):
        ports = (None, None)
    return communityid.CommunityID().calc(communityid.FlowTuple(proto, src, dst, *ports))


@given(st.lists(flows, min_size=1, max_size=17))
@settings(max_examples=200, deadline=None)
def test_as_the_reference_implementation(batch):
    records = flow_records(len(batch))
    for index, (etype, proto, src, dst, *rest) in enumerate(batch):
        records[index]["etype"] = etype
        records[index]["proto"] = proto
        records["src_addr"][index] = np.frombuffer(src, np.uint8)
        records["dst_addr"][index] = np.frombuffer(dst, np.uint8)
        for name, value in zip(
            ("src_port", "dst_port", "icmp_type", "icmp_code"), rest, strict=True
        ):
            records[index][name] = value
    assert texts(records) == [expected(*flow) for flow in batch]


@pytest.mark.parametrize("icmp", ICMP)
def test_every_icmp_type(icmp):
    batch = [(0x86DD, icmp, b"\1" * 16, bytes(16), 0, 0, kind, 3) for kind in range(256)]
    records = flow_records(
        256, etype=0x86DD, proto=icmp, src_addr=1, icmp_type=np.arange(256), icmp_code=3
    )
    assert texts(records) == [expected(*flow) for flow in batch]


def test_of_no_records():
    assert community_ids(flow_records(0)).shape == (0, 30)


def in_json(value: bytes) -> str | None:
    return json.loads(value).get("community_id")


def in_protobuf(value: bytes) -> str | None:
    """Field 1010 of 30 octets."""
    _, _, behind = value.partition(b"\x92\x3f\x1e")
    return behind[:30].decode() or None


def in_avro(value: bytes) -> str | None:
    """The last field: its length is a zigzag."""
    return value[-30:].decode() if value[-31:-30] == b"\x3c" else None


@pytest.mark.parametrize(
    ("name", "found_in"), [("json", in_json), ("protobuf", in_protobuf), ("avro", in_avro)]
)
def test_published_where_it_is_asked_for(name, found_in):
    records = random_flows(1_031)
    stamp(records, IDENTITY, 0)
    without = encoder_of(name, IDENTITY).encode(records)
    values = encoder_of(name, IDENTITY, community_id=True).encode(records)
    assert list(map(found_in, values)) == texts(records)
    assert set(map(found_in, without)) == {None}
    assert b"community_id" not in without[0]
    assert decode_many(values) == decode_many(without)


@pytest.mark.parametrize("name", ["json", "protobuf", "avro"])
def test_no_records_no_values(name):
    assert encoder_of(name, IDENTITY, community_id=True).encode(flow_records(0)) == []

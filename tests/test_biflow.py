"""Both directions of a connection out of flow records: sums, and which end began."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.records import (
    Biflow,
    BiflowDirection,
    BiflowPairing,
    Evidence,
    FlowRecord,
    biflows,
)
from flowstream.testing import CountersFactory, FlowFactory

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
CLIENT, SERVER = ("10.0.0.9", 49_152), ("10.0.0.2", 443)
"""The client has the larger address, so that addresses do not tell who began."""
HOSTS = bytes(16), bytes([7] * 16), bytes([9] * 16)
INGRESS, EGRESS = 0, 1
START_NS = 1_700_000_000_000_000_000
NEW_FLOW = 2
make = FlowFactory()


def record(
    source: tuple[str, int], to: tuple[str, int], flags: int = 0, **fields: Any
) -> FlowRecord:
    """Make a TCP record, or an announcement, ``at`` ns after the start."""
    fields["time_flow_start_ns"] = START_NS + fields.pop("at", 0)
    ports = {"src_port": source[1], "dst_port": to[1]}
    return make(src_addr=source[0], dst_addr=to[0], tcp_flags=flags, **ports, **fields)


def forth(flags: int = 0, **fields: Any) -> FlowRecord:
    return record(CLIENT, SERVER, flags, **fields)


def back(flags: int = 0, **fields: Any) -> FlowRecord:
    return record(SERVER, CLIENT, flags, **fields)


def one(records: Iterable[FlowRecord]) -> Biflow:
    (found,) = biflows(records)
    return found


def packets(biflow: Biflow) -> tuple[int | None, int | None]:
    forward, reverse = biflow.forward, biflow.reverse
    return forward and forward.packets, reverse and reverse.packets


def test_sums_of_both_directions():
    found = one(
        [
            forth(SYN | ACK | PSH, packets=5, bytes=500, l2_bytes=570, at=1_000),
            forth(ACK | FIN, packets=3, bytes=300, l2_bytes=342, at=9_000),
            back(SYN | ACK, packets=7, bytes=700, l2_bytes=798, at=1_100),
        ]
    )
    assert (str(found.source), found.src_port) == CLIENT
    assert (str(found.destination), found.dst_port) == SERVER
    assert (found.etype, found.proto, found.icmp_type, found.icmp_code) == (0x0800, 6, 0, 0)
    assert found.forward is not None
    assert found.reverse is not None
    assert (found.forward.packets, found.forward.bytes, found.forward.l2_bytes) == (8, 800, 912)
    assert found.forward.tcp_flags == SYN | ACK | PSH | FIN
    assert (found.reverse.packets, found.reverse.bytes, found.reverse.l2_bytes) == (7, 700, 798)
    assert found.forward.time_flow_start_ns == found.time_flow_start_ns == START_NS + 1_000
    assert found.forward.time_flow_end_ns == found.time_flow_end_ns == START_NS + 9_000
    assert found.reverse.time_flow_start_ns == START_NS + 1_100


def test_a_biflow_is_a_struct_of_msgspec():
    """So it may be kept, as JSON say, and read again."""
    found = one([forth(SYN), back(SYN | ACK, at=7)])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Biflow) == found


WHOLE = SYN | ACK | PSH | FIN
INITIATOR: dict[str, tuple[list[FlowRecord], Evidence, tuple[str, int]]] = {
    "a SYN that nobody answers": ([forth(SYN)], Evidence.SYN, CLIENT),
    "a SYN sent thrice and answered by a reset": (
        [forth(SYN, packets=3), back(RST | ACK, at=1)],
        Evidence.SYN,
        CLIENT,
    ),
    "the answer alone": ([back(SYN | ACK)], Evidence.SYN, CLIENT),
    "the first record of the server is its answer": (
        [forth(WHOLE, packets=5), back(SYN | ACK), back(ACK, packets=4)],
        Evidence.SYN,
        CLIENT,
    ),
    "the client's announcement": (
        [forth(WHOLE, packets=5), back(WHOLE, packets=5), forth(SYN, record_type=NEW_FLOW)],
        Evidence.SYN,
        CLIENT,
    ),
    "the server's announcement": (
        [back(WHOLE, packets=5), back(SYN | ACK, record_type=NEW_FLOW)],
        Evidence.SYN,
        CLIENT,
    ),
    "ORs of both, the SYN came first": (
        [back(WHOLE, packets=5, at=900), forth(WHOLE, packets=5, at=100), back(ACK, at=-5_000)],
        Evidence.SYN_ORDER,
        CLIENT,
    ),
    "ORs of both at once": (
        [back(WHOLE, packets=5), forth(WHOLE, packets=5)],
        Evidence.NONE,
        CLIENT,
    ),
    "ORs of both by the clocks of two hosts": (
        [
            back(WHOLE, packets=5, at=100, host_id=HOSTS[0]),
            forth(WHOLE, packets=5, at=900, host_id=HOSTS[1]),
        ],
        Evidence.NONE,
        CLIENT,
    ),
    "an OR of one direction alone": ([back(WHOLE, packets=5)], Evidence.NONE, SERVER),
    "an OR of one direction, the other has no SYN": (
        [back(WHOLE, packets=5), forth(ACK, packets=5, at=900)],
        Evidence.NONE,
        CLIENT,
    ),
    "under way, whoever was seen first": (
        [back(ACK, packets=5), forth(ACK, packets=5, at=900)],
        Evidence.NONE,
        CLIENT,
    ),
    "an announcement under way": (
        [back(ACK), forth(ACK, at=900), back(ACK | PSH, record_type=NEW_FLOW)],
        Evidence.NONE,
        CLIENT,
    ),
    "both send a SYN": ([back(SYN, at=50), forth(SYN, at=90)], Evidence.SYN_ORDER, SERVER),
}


@pytest.mark.parametrize("case", INITIATOR)
def test_which_end_of_tcp_began(case):
    records, evidence, source = INITIATOR[case]
    found = one(records)
    assert found.evidence == evidence
    assert (str(found.source), found.src_port) == source
    expected = (
        BiflowDirection.INITIATOR if evidence != Evidence.NONE else BiflowDirection.ARBITRARY
    )
    assert found.biflow_direction == expected


def test_what_is_exact():
    assert {each for each in Evidence if each.is_exact} == {Evidence.SYN, Evidence.ICMP_TYPE}
    assert (BiflowDirection.ARBITRARY, BiflowDirection.INITIATOR) == (0, 1)


def test_udp_by_its_first_packet():
    query, answer = forth(proto=17, at=100), back(proto=17, at=700)
    found = one([answer, query])
    assert (found.evidence, str(found.source)) == (Evidence.FIRST_PACKET, CLIENT[0])
    seen_from_the_middle = one([back(proto=17, at=100), forth(proto=17, at=700)])
    assert seen_from_the_middle.evidence == Evidence.FIRST_PACKET
    assert str(seen_from_the_middle.source) == SERVER[0]


def test_udp_by_two_clocks_is_arbitrary():
    found = one([forth(proto=17, host_id=HOSTS[1]), back(proto=17, at=-100, host_id=HOSTS[2])])
    assert (found.evidence, str(found.source)) == (Evidence.NONE, CLIENT[0])
    assert packets(found) == (1, 1)


def test_one_direction_of_udp_is_not_turned():
    found = one([back(proto=17)])
    assert (found.evidence, str(found.source), packets(found)) == (
        *(Evidence.NONE, SERVER[0]),
        (1, None),
    )


def test_udp_and_tcp_of_the_same_ports_are_two():
    assert len(biflows([forth(proto=17), forth(SYN)])) == 2


def test_ipv6_with_mapped_addresses_is_not_ipv4():
    assert len(biflows([forth(SYN), forth(SYN, etype=0x86DD)])) == 2


def icmp(source: str, to: str, kind: int, code: int = 0, **fields: Any) -> FlowRecord:
    proto = fields.pop("proto", 1)
    return record((source, 0), (to, 0), icmp_type=kind, icmp_code=code, proto=proto, **fields)


@pytest.mark.parametrize("asked", [True, False])
def test_ping(asked):
    """By its type, whatever came first, and with the answer alone."""
    answer = icmp("10.0.0.2", "10.0.0.9", 0, at=-100, packets=3)
    request = icmp("10.0.0.9", "10.0.0.2", 8, packets=5)
    found = one([answer, *([request] if asked else [])])
    assert (found.evidence, str(found.source), found.icmp_type) == (
        *(Evidence.ICMP_TYPE, "10.0.0.9"),
        8,
    )
    assert packets(found) == (5 if asked else None, 3)


def test_two_hosts_that_ping_each_other_are_two():
    ends = ("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.2")
    records = [icmp(*one, kind) for one in ends for kind in (0, 8)]
    found = biflows(records)
    assert [(str(each.source), packets(each)) for each in found] == [
        ("10.0.0.2", (1, 1)),
        ("10.0.0.9", (1, 1)),
    ]


def test_icmp_errors_have_one_direction():
    errors = [icmp(*ends, 3, 1) for ends in (("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.2"))]
    found = biflows(errors)
    assert [(each.evidence, each.icmp_type, each.icmp_code) for each in found] == [
        (Evidence.NONE, 3, 1)
    ] * 2
    assert [packets(each) for each in found] == [(1, None)] * 2


@pytest.mark.parametrize(("kind", "evidence"), [(136, Evidence.NONE), (129, Evidence.ICMP_TYPE)])
def test_advertisements_need_no_request(kind, evidence):
    found = one([icmp("fe80::1", "fe80::2", kind, proto=58)])
    assert found.evidence == evidence
    expected = ("fe80::1", kind) if evidence == Evidence.NONE else ("fe80::2", kind - 1)
    assert (str(found.source), found.icmp_type) == expected


def test_a_solicited_advertisement():
    request = icmp("fe80::2", "fe80::1", 135, proto=58, at=50)
    found = one([icmp("fe80::1", "fe80::2", 136, proto=58), request])
    assert (found.evidence, str(found.source)) == (Evidence.ICMP_TYPE, "fe80::2")


def test_to_itself():
    """Both ends are one: there is no other direction."""
    found = one([record(CLIENT, CLIENT, SYN | ACK, packets=3), record(CLIENT, CLIENT, ACK)])
    assert (packets(found), found.evidence) == ((4, None), Evidence.NONE)


def test_a_forwarded_packet_counts_once():
    """It is seen coming in and going out; where some were dropped in between, all that came."""
    found = one(
        [
            forth(SYN | ACK, packets=11, flow_direction=INGRESS, if_index=2),
            forth(SYN | ACK, packets=11, flow_direction=EGRESS, if_index=3, at=5),
            back(SYN | ACK, packets=7, flow_direction=INGRESS, if_index=3, at=50),
            back(SYN | ACK, packets=5, flow_direction=EGRESS, if_index=2, at=55),
        ]
    )
    assert packets(found) == (11, 7)
    assert found.evidence == Evidence.SYN_ORDER


def test_both_directions_of_the_host_itself():
    found = one([forth(flow_direction=EGRESS, packets=3), back(packets=2, at=9)])
    assert packets(found) == (3, 2)
    assert found.forward is not None
    assert found.reverse is not None
    assert (found.forward.flow_direction, found.reverse.flow_direction) == (EGRESS, INGRESS)


def test_interfaces_of_a_direction_are_summed():
    """A direction may come in by several: equal-cost paths, or a failover."""
    found = one([forth(packets=3, if_index=2), forth(packets=5, if_index=3)])
    assert packets(found) == (8, None)


def test_ingress_of_both_hosts():
    """Each direction is seen where it arrives."""
    found = one(
        [forth(packets=3, host_id=HOSTS[2]), back(SYN | ACK, host_id=HOSTS[1]), back(packets=1)]
    )
    assert (packets(found), found.evidence) == ((3, 1), Evidence.SYN)


def test_a_host_that_sees_both_directions_is_preferred():
    found = one(
        [
            forth(packets=9, host_id=HOSTS[2]),
            *(forth(packets=8, host_id=HOSTS[1]), back(packets=1, host_id=HOSTS[1])),
        ]
    )
    assert packets(found) == (8, 1)
    assert found.forward is not None
    assert found.forward.host_id == HOSTS[1]


def test_aggregated_records_are_left_out_and_counted():
    records = [forth(SYN), forth(flow_count=5, packets=17), back(flow_count=2, packets=6)]
    with pytest.warns(UserWarning, match="2 aggregated records with 23 packets belong to no"):
        found = biflows(records)
    assert [packets(each) for each in found] == [(1, None)]
    pairing = BiflowPairing()
    for each in records:
        pairing.feed(each)
    assert (pairing.aggregated_records, pairing.aggregated_packets) == (2, 23)


def test_announcements_and_counters_are_no_biflows():
    assert biflows([forth(SYN, record_type=NEW_FLOW), CountersFactory()([])]) == []


def test_expired_biflows_are_forgotten():
    pairing = BiflowPairing()
    for each in (forth(SYN, at=100), back(SYN | ACK, at=200), forth(proto=17, at=500)):
        pairing.feed(each)
    assert len(pairing) == 2
    assert pairing.expire(START_NS + 200) == []
    (over,) = pairing.expire(START_NS + 201)
    assert (packets(over), over.evidence) == ((1, 1), Evidence.SYN)
    assert len(pairing) == 1
    pairing.feed(back(ACK, at=900))
    last = pairing.flush()
    assert [(each.proto, packets(each)) for each in last] == [(17, (1, None)), (6, (1, None))]
    assert len(pairing) == 0


def test_announcements_expire_too():
    pairing = BiflowPairing()
    for port in range(1_000):
        pairing.feed(make(record_type=NEW_FLOW, src_port=port, time_flow_start_ns=START_NS))
    assert pairing.expire(START_NS + 1) == []
    assert len(pairing) == 0


@st.composite
def records_of_few_flows(draw: st.DrawFn) -> list[FlowRecord]:
    """Deltas of some flows, so that many meet their other direction."""
    return draw(
        st.lists(
            st.builds(
                lambda ends, **fields: record(*ends, **fields),
                st.permutations([("10.0.0.1", 5), ("10.0.0.2", 7), ("10.0.0.1", 7)]).map(
                    lambda ends: ends[:2]
                ),
                flags=st.sampled_from([0, SYN, SYN | ACK, ACK, WHOLE]),
                at=st.integers(-3, 3),
                proto=st.sampled_from([6, 17]),
                packets=st.integers(1, 3),
                bytes=st.integers(40, 90),
                record_type=st.sampled_from([1, 1, 1, NEW_FLOW]),
                host_id=st.sampled_from(HOSTS),
                flow_direction=st.sampled_from([INGRESS, EGRESS]),
                if_index=st.integers(1, 2),
            ),
            max_size=30,
        )
    )


@given(records_of_few_flows(), st.randoms(use_true_random=False))
def test_the_order_of_records_is_irrelevant(records, random_: random.Random):
    shuffled = list(records)
    random_.shuffle(shuffled)
    assert biflows(shuffled) == biflows(records)


def total(records: Iterable[FlowRecord]) -> tuple[int, int, int]:
    flows = [each for each in records if not each.is_new_flow]
    return (
        *(sum(each.packets for each in flows), sum(each.bytes for each in flows)),
        sum(each.l2_bytes for each in flows),
    )


@given(records_of_few_flows())
def test_each_direction_has_the_sum_of_one_place(records):
    """Of one host and flow_direction: all of it, whatever was seen elsewhere."""
    for biflow in biflows(records):
        ends = (biflow.src_addr, biflow.src_port), (biflow.dst_addr, biflow.dst_port)
        for (source, to), uniflow in ((ends, biflow.forward), (ends[::-1], biflow.reverse)):
            sent = [
                each
                for each in records
                if (each.proto, each.src_addr, each.src_port) == (biflow.proto, *source)
                and (each.dst_addr, each.dst_port) == to
            ]
            if uniflow is None:
                assert total(sent) == (0, 0, 0)
                continue
            place = uniflow.host_id, uniflow.flow_direction
            there = [each for each in sent if (each.host_id, each.flow_direction) == place]
            assert total(there) == (uniflow.packets, uniflow.bytes, uniflow.l2_bytes)


@given(records_of_few_flows(), st.lists(st.integers(0, 30), max_size=3))
def test_sums_of_one_place_are_preserved(records, cuts):
    """With biflows given out in between, too."""
    records = [
        msgspec.structs.replace(each, host_id=HOSTS[0], flow_direction=INGRESS) for each in records
    ]
    pairing, found = BiflowPairing(), []
    for number, each in enumerate(records):
        if number in cuts:
            found += pairing.expire(START_NS + 1)
        pairing.feed(each)
    found += pairing.flush()
    uniflows = [each for biflow in found for each in (biflow.forward, biflow.reverse) if each]
    assert total(records) == (
        *(sum(each.packets for each in uniflows), sum(each.bytes for each in uniflows)),
        sum(each.l2_bytes for each in uniflows),
    )


def test_no_warning_without_aggregated_records():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(biflows([forth(SYN)])) == 1

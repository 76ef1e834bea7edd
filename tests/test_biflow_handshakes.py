"""Handshakes cut into records in every way: what is called exact is never wrong."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from flowstream.records import Evidence, FlowRecord, biflows
from flowstream.testing import FlowFactory

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
START_NS = 1_700_000_000_000_000_000
CLIENT, SERVER = False, True
NEW_FLOW = 2
make = FlowFactory()


class Packet(NamedTuple):
    """A packet of the client or of the server, and its place in the order of all."""

    at: int
    sender: bool
    flags: int


@st.composite
def connections(draw: st.DrawFn) -> list[Packet]:
    """What one host sees of a connection, SYN and SYN+ACK sent several times, reset or closed."""
    data = st.tuples(st.sampled_from([CLIENT, SERVER]), st.sampled_from([ACK, ACK | PSH]))
    steps = [(CLIENT, SYN)] * draw(st.integers(1, 3))
    if draw(st.booleans()):
        steps += [(SERVER, SYN | ACK)] * draw(st.integers(1, 3))
        steps += [(CLIENT, ACK), *draw(st.lists(data, max_size=5))]
        steps += [(CLIENT, FIN | ACK), (SERVER, FIN | ACK)] * draw(st.integers(0, 1))
    else:
        steps += [(SERVER, RST | ACK)] * draw(st.integers(0, 1))
    return [Packet(number, *step) for number, step in enumerate(steps)]


def record(packets: list[Packet], record_type: int = 1) -> FlowRecord:
    """Make the record of some packets of one direction."""
    ends = [("10.0.0.9", 50_001), ("10.0.0.2", 443)]
    (source, src_port), (to, dst_port) = ends[::-1] if packets[0].sender == SERVER else ends
    flags = 0
    for packet in packets:
        flags |= packet.flags
    return make(
        record_type=record_type,
        src_addr=source,
        src_port=src_port,
        dst_addr=to,
        dst_port=dst_port,
        tcp_flags=flags,
        packets=len(packets) if record_type == 1 else 0,
        time_flow_start_ns=START_NS + packets[0].at,
        time_flow_end_ns=START_NS + packets[-1].at,
        flow_direction=int(packets[0].sender),
    )


def deltas(packets: list[Packet], cuts: set[int]) -> list[FlowRecord]:
    """Records of both directions; a new interval begins before each packet of ``cuts``."""
    found: dict[tuple[bool, int], list[Packet]] = defaultdict(list)
    for packet in packets:
        interval = sum(cut <= packet.at for cut in cuts)
        found[packet.sender, interval].append(packet)
    return [record(each) for each in found.values()]


@st.composite
def observed(draw: st.DrawFn, *, whole: bool) -> list[FlowRecord]:
    """Records of a connection: all of them, or what sampling, a late start and losses leave."""
    packets = draw(connections())
    cuts = draw(st.sets(st.integers(0, len(packets))))
    if not whole:
        packets = [packet for packet in packets if draw(st.booleans())]
    records = deltas(packets, cuts)
    if whole:
        return records
    # Of any packet: that of a flow's first one may have been lost.
    records += [record([packet], NEW_FLOW) for packet in packets if draw(st.booleans())]
    return [each for each in records if draw(st.integers(0, 3))]


@given(observed(whole=False))
def test_what_is_exact_is_right(records):
    for biflow in biflows(records):
        assert not biflow.evidence.is_exact or str(biflow.source) == "10.0.0.9", records


@given(observed(whole=True))
def test_the_order_of_both_syns_is_right(records):
    """Where everything was seen, the connection's client is always known."""
    (biflow,) = biflows(records)
    assert str(biflow.source) == "10.0.0.9", records
    assert biflow.evidence in {Evidence.SYN, Evidence.SYN_ORDER}

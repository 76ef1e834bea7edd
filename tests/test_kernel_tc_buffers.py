"""Packets at the TC hook whose headers are not in one piece, on a veth pair.

Of each packet the first 14 octets alone can be read at once, as with drivers that leave
what they receive in pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from packets import corpus, reference
from packets.kernel import END_INTERVAL_OVER, reading, wire
from support.net import namespace, veth_pair
from support.packet_socket import Capture
from support.ring_socket import RingSocket
from support.traffic import wait_until

from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Wire

TAGS = (b"\x81\x00", b"\x88\xa8")
TAG_AND_TYPE = 20
"""Octets that a received frame needs for its first tag to be taken out; else it is dropped."""
DROPPED = 7
FRAMES = [
    frame
    for frame in (*corpus.frames().values(), *corpus.beyond_first_buffer().values())
    if len(frame) > corpus.SHORTEST_FRAME  # the kernel sends no shorter ones
]


@pytest.fixture
def pair() -> Iterator[Wire]:
    """A pair over which packets go as they are: not made linear on the way."""
    with namespace() as here, namespace() as there, veth_pair(here, there) as ends:
        for each in ends:
            each.namespace.run("ethtool", "-K", each.name, "sg", "on")
        yield ends


def seen(direction: int) -> list[bytes]:
    """Frames of ``FRAMES`` that reach the hook."""
    if direction == EGRESS:
        return FRAMES
    frames = [each for each in FRAMES if each[12:14] not in TAGS or len(each) >= TAG_AND_TYPE]
    assert len(FRAMES) - len(frames) == DROPPED
    return frames


def observe(pair: Wire, probe: FlowProbe | CounterProbe, direction: int) -> dict[str, Amount]:
    """Send all frames past an attachment; return its counts of packets without a flow.

    The frames arrive as they were sent.
    """
    device = pair.sender if direction == EGRESS else pair.receiver
    frames = seen(direction)
    with RingSocket(pair.sender) as ring, Capture(pair.receiver) as capture:
        with device.namespace.entered():
            attachment = probe.attach(device.name, Mode.TCX, direction)
        ring.send(FRAMES)
        assert wait_until(lambda: attachment.counters().seen.packets == len(frames))
        counts = attachment.counters()
        assert arrivals(capture, len(seen(INGRESS))) == seen(INGRESS)
    assert counts.seen.l2_bytes == sum(map(len, frames))
    return {reason: amount for reason, amount in counts.no_flow.items() if amount.packets}


def arrivals(capture: Capture, count: int) -> list[bytes]:
    """Wait for ``count`` frames."""
    frames: list[bytes] = []

    def complete() -> bool:
        frames.extend(capture.frames())
        return len(frames) >= count

    assert wait_until(complete)
    return frames


def amount(frames: list[bytes]) -> Amount:
    return Amount(len(frames), sum(map(len, frames)))


@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
def test_every_packet_reads_as_in_the_reference(pair, direction):
    """The table is full, so that each packet has a record, in the order of sending."""
    with FlowProbe(max_flows=1) as probe:
        no_flow = observe(pair, probe, direction)
        batches = [*probe.drain(END_INTERVAL_OVER), probe.overflow.read(len(FRAMES))]
    frames = seen(direction)
    readings = [reference.read(frame) for frame in frames]
    flows = [each for each in readings if not isinstance(each, str)]
    assert len(flows) > 2_000
    records = [record for batch in batches for record in wire(batch)]
    assert [reading(record) for record in records] == flows
    assert {record["flow_direction"] for record in records} == {direction}
    assert no_flow == {
        reason: amount(
            [each for each, read in zip(frames, readings, strict=True) if read == reason]
        )
        for reason in ("non_ip", "malformed")
    }


@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
def test_the_counter_program_counts_them_all(pair, direction):
    with CounterProbe(max_flows=4_099) as probe:
        no_flow = observe(pair, probe, direction)
    found: dict[str, list[bytes]] = {"counted": [], "non_ip": [], "malformed": []}
    for frame in seen(direction):
        read = reference.read(frame)
        if not isinstance(read, str):
            read = "counted" if read.etype == reference.ETH_IPV4 else "non_ip"
        found[read].append(frame)
    assert no_flow == {reason: amount(frames) for reason, frames in found.items()}


@pytest.mark.parametrize("probe_type", [FlowProbe, CounterProbe])
@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
def test_packets_that_sampling_leaves_out_are_as_long_as_the_others(pair, probe_type, direction):
    """They are not read; ``observe`` compares the octets of all."""
    with probe_type(max_flows=4_099, sampling=2) as probe:
        no_flow = observe(pair, probe, direction)
    assert 1_000 < no_flow["sampled_out"].packets < 2_000

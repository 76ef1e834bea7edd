"""Programs by TCX links: what they see in each direction, beside the programs of others."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.agent import delivered
from support.tc import NEXT, TAKE, CountingProgram, device_of
from support.tcx import DROP, OtherProgram, programs
from support.traffic import THROUGH_TC, flood, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.errors import KernelError
from flowstream.kernel import libbpf
from flowstream.kernel.clsact import Filters, new_number
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode, program_in_force
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Wire

PACKETS = 10_007
FLOWS = 307
OCTETS = 64
DIRECTIONS = pytest.mark.parametrize("direction", [INGRESS, EGRESS], ids=["ingress", "egress"])
PROBES = pytest.mark.parametrize("probe_type", [FlowProbe, CounterProbe])


def sent(wire: Wire, *options: str | float) -> int:
    """Send packets; all of them arrive."""
    assert delivered(*wire, PACKETS, *options, *THROUGH_TC) == PACKETS
    return PACKETS


@PROBES
@DIRECTIONS
def test_each_direction_is_seen_at_its_end_and_no_other(wire, probe_type, direction):
    device = device_of(wire, direction)
    with device.namespace.entered(), probe_type(max_flows=1_009) as probe:
        attachments = [probe.attach(device.name, Mode.TCX, each) for each in (INGRESS, EGRESS)]
        assert [each.mode for each in attachments] == [Mode.TCX] * 2
        assert [each.key for each in attachments] == [(device.index, 0), (device.index, 1)]
        packets = sent(wire, "-f", FLOWS)
        seen = [each.counters().seen for each in attachments]
        assert seen[direction] == (packets, packets * OCTETS)
        assert seen[1 - direction] == (0, 0)
        attached = attachments[direction]
        attached.detach()
        attached.detach()
        # The kernel lets go of a link once its last user is gone.
        assert wait_until(lambda: programs(device, direction) == [])
        sent(wire)
        assert attached.counters().seen.packets == packets


@DIRECTIONS
def test_records_and_announcements_have_the_direction(wire, direction):
    device = device_of(wire, direction)
    with device.namespace.entered(), FlowProbe(max_flows=1_009) as probe:
        attachment = probe.attach(device.name, Mode.TCX, direction)
        packets = sent(wire, "-f", FLOWS)
        announced = probe.announcements.read(2 * FLOWS)
        (flows,) = probe.drain(EndReason.INTERVAL_OVER)
        for records in (announced, flows):
            assert len(records) == FLOWS
            assert set(records["flow_direction"].tolist()) == {direction}
            assert set(records["if_index"].tolist()) == {device.index}
        assert int(flows["packets"].sum()) == packets
        assert int(flows["l2_bytes"].sum()) == packets * OCTETS
        assert int(flows["bytes"].sum()) == packets * (OCTETS - 14)
        attachment.close()


@DIRECTIONS
def test_sources_are_announced_with_the_direction(wire, direction):
    device = device_of(wire, direction)
    with device.namespace.entered(), CounterProbe(max_flows=1_009) as probe:
        attachment = probe.attach(device.name, Mode.TCX, direction)
        sent(wire)
        (announced,) = attachment.rings[0].read(FLOWS)
        assert (announced["flow_direction"], announced["if_index"]) == (direction, device.index)


@pytest.fixture(name="others")
def _others() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def flooded(wire: Wire, program: CountingProgram) -> None:
    """Send packets, whatever becomes of them, and wait until a program has seen them."""
    before = program.packets
    flood(wire.sender, "-n", PACKETS, *THROUGH_TC)
    assert wait_until(lambda: program.packets - before == PACKETS)


@DIRECTIONS
@pytest.mark.parametrize("verdict", [NEXT, TAKE, DROP], ids=["next", "pass", "drop"])
def test_programs_of_others_get_every_packet_and_keep_their_verdict(
    wire, others, direction, verdict
):
    """Those that were there before ours, and those that come later, run behind it."""
    device = device_of(wire, direction)
    with device.namespace.entered(), FlowProbe(max_flows=1_009) as probe:
        early = others.enter_context(OtherProgram(device, direction, NEXT))
        attachment = probe.attach(device.name, Mode.TCX, direction)
        late = others.enter_context(OtherProgram(device, direction, verdict))
        last = others.enter_context(OtherProgram(device, direction, NEXT))
        theirs = [early.id, late.id, last.id]
        assert programs(device, direction) == [attachment.program.id, *theirs]
        received = wire.receiver.statistic("rx_packets")
        furthest = last if verdict == NEXT else late
        flooded(wire, furthest)
        # Ours has seen what theirs drops.
        assert attachment.counters().seen.packets == PACKETS
        behind = PACKETS if verdict == NEXT else 0
        assert [early.packets, late.packets, last.packets] == [PACKETS, PACKETS, behind]
        if direction == EGRESS:
            arrived = 0 if verdict == DROP else PACKETS
            assert wire.receiver.statistic("rx_packets") - received == arrived
        attachment.close()
        assert wait_until(lambda: programs(device, direction) == theirs)
        flooded(wire, furthest)
        assert [early.packets, late.packets, last.packets] == [
            2 * PACKETS,
            2 * PACKETS,
            2 * behind,
        ]


@DIRECTIONS
def test_a_filter_of_tc_runs_behind_and_what_it_drops_is_seen(wire, direction):
    device = device_of(wire, direction)
    with (
        device.namespace.entered(),
        FlowProbe(max_flows=1_009) as probe,
        CountingProgram(DROP) as other,
        Filters(new_number()) as filters,
    ):
        place = filters.add(device.index, direction, other.fd)
        attachment = probe.attach(device.name, Mode.TCX, direction)
        flooded(wire, other)
        assert attachment.counters().seen.packets == PACKETS
        attachment.close()
        filters.remove(place)


@DIRECTIONS
def test_a_program_that_is_put_first_later_decides_what_ours_sees(wire, others, direction):
    device = device_of(wire, direction)
    with device.namespace.entered(), FlowProbe(max_flows=1_009) as probe:
        attachment = probe.attach(device.name, Mode.TCX, direction)
        with OtherProgram(device, direction, NEXT, first=True) as other:
            assert programs(device, direction) == [other.id, attachment.program.id]
            flooded(wire, other)
            assert wait_until(lambda: attachment.counters().seen.packets == PACKETS)
        with OtherProgram(device, direction, TAKE, first=True) as other:
            flooded(wire, other)
            assert attachment.counters().seen.packets == PACKETS
        attachment.close()


def test_an_xdp_program_of_another_stays_and_is_observed_behind(wire):
    """TCX sees the packets that the XDP program lets pass."""
    device = wire.receiver
    with (
        device.namespace.entered(),
        FlowProbe(max_flows=1_009) as other,
        FlowProbe(max_flows=1_009) as probe,
    ):
        theirs = other.attach(device.name)
        with pytest.raises(KernelError, match="is already there: use --hook tcx to") as refused:
            probe.attach(device.name)
        assert refused.value.errno == errno.EBUSY
        attachment = probe.attach(device.name, Mode.TCX)
        sent(wire)
        assert [each.counters().seen.packets for each in (theirs, attachment)] == [PACKETS] * 2
        assert program_in_force(theirs.link_fd) == theirs.program.id
        for each in (theirs, attachment):
            each.close()


@DIRECTIONS
def test_an_interface_takes_no_more_programs_than_the_kernel_allows(wire, others, direction):
    device = device_of(wire, direction)
    with device.namespace.entered(), FlowProbe(max_flows=1_009) as probe:
        for _ in range(libbpf.MOST_TCX):
            others.enter_context(OtherProgram(device, direction, NEXT))
        text = rf"{device.name} \(tcx\): no more programs .*: bpftool net show dev {device.name}$"
        with pytest.raises(KernelError, match=text) as refused:
            probe.attach(device.name, Mode.TCX, direction)
        assert refused.value.errno == errno.ERANGE

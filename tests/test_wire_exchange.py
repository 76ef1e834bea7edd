"""Two hosts exchange everything: both directions are recorded as the packets were on the wire."""

from __future__ import annotations

import contextlib
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from packets.compare import differing
from packets.kernel import END_INTERVAL_OVER, reading, wire
from support.exchange import CUT, Exchange
from support.hosts import hosts
from support.pcap_runs import Runner
from support.traffic import write_capture

from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from packets.reference import FlowKey, Reading
    from support.exchange import Part
    from support.pcap_runs import Published

    from flowstream.accounting.amounts import KernelCounts

LEGACY_MAX_SIZE = 65_536
"""Segments that are larger are those of BIG TCP (GSO_LEGACY_MAX_SIZE, linux/netdevice.h)."""
IN_THE_PACKET = ("txvlan", "off", "tx-vlan-stag-hw-insert", "off")
FEATURES = {
    # A bridge may join packets, which are cut again behind it.
    Mode.TCX: {"outer": ("gro", "on", "rx-udp-gro-forwarding", "on")},
    # XDP sees no other tags.
    Mode.NATIVE: {"inner": IN_THE_PACKET},
    Mode.GENERIC: {"inner": IN_THE_PACKET},
}
"""Of the bridge's ports."""
CUT_OR_JOINED = re.compile("|".join((*CUT, "big", "congested", "untrusted")))
# The kernel joins nothing behind IPv4 options or a tag that is in the packet: for XDP all
# tags are there. What frames of packet sockets have in common depends on the flags. And it
# cuts datagrams with IPv6 extension headers before they reach a device.
NOT_JOINED = {
    Mode.TCX: "(two tags|options|every|twice|^untrusted .* datagrams).* in",
    Mode.NATIVE: "(vlan|priority|tag|options|every|^untrusted .* datagrams).* in",
    Mode.GENERIC: " in$",  # there is no GRO in front of it
}
CUT_EARLIER = "options segments 6 out"


@dataclass(frozen=True)
class Observed:
    """What the programs recorded of an exchange by direction, and its packets on the wire."""

    mode: Mode
    """How received packets were observed."""
    flows: dict[int, dict[FlowKey, Reading]]
    forwarded: dict[tuple[bool, int], dict[FlowKey, Reading]]
    """By the bridge between the hosts: whether its outer port saw them, and the direction."""
    counts: dict[int, KernelCounts]
    parts: dict[str, Part]
    published: Published
    """The packets on the wire, as ``flowstream pcap`` reads them."""
    statistics: dict[int, int]
    """Packets that the far host's device has counted."""
    mac: bytes

    def expected(self, direction: int) -> dict[FlowKey, Reading]:
        """Flows on the wire."""
        sums = self.published.sums()
        return {key: said for key, said in sums.items() if (said.src_mac == self.mac) == direction}

    def frames(self, direction: int) -> list[bytes]:
        """Packets on the wire."""
        every = (frame for part in self.parts.values() for frame in part.wire)
        return [frame for frame in every if (frame[6:12] == self.mac) == direction]


@contextlib.contextmanager
def exchanged(mode: Mode, directory: Path) -> Iterator[Observed]:
    """Observe an exchange, received packets by ``mode``."""
    with contextlib.ExitStack() as stack:
        between = stack.enter_context(hosts())
        probe = stack.enter_context(FlowProbe(max_flows=4_099))
        device, far = between.observed.device, between.far.device
        for each, features in FEATURES[mode].items():
            between.inner.namespace.run("ethtool", "-K", each, *features)
        with device.namespace.entered():
            attachments = {
                direction: stack.enter_context(probe.attach(device.name, each, direction))
                for direction, each in ((INGRESS, mode), (EGRESS, Mode.TCX))
            }
        bridge = stack.enter_context(FlowProbe(max_flows=4_099))
        with between.inner.namespace.entered():
            for each, direction in itertools.product(("inner", "outer"), (INGRESS, EGRESS)):
                stack.enter_context(bridge.attach(each, Mode.TCX, direction))
        exchange = stack.enter_context(Exchange(between))
        exchange.hold()
        for each in attachments.values():
            each.detach()
        every = (frame for part in exchange.parts.values() for frame in part.wire)
        capture = write_capture(directory / "wire.pcap", every)
        yield Observed(
            mode,
            {direction: flows for (_, direction), flows in drained(probe).items()},
            {
                (index == between.outer.index, direction): flows
                for (index, direction), flows in drained(bridge).items()
            },
            {direction: each.counters() for direction, each in attachments.items()},
            exchange.parts,
            Runner(directory, None)(capture, audited=False),
            {EGRESS: far.statistic("rx_packets"), INGRESS: far.statistic("tx_packets")},
            between.observed.mac_octets,
        )


def drained(probe: FlowProbe) -> dict[tuple[int, int], dict[FlowKey, Reading]]:
    """Flows by interface and direction."""
    found: dict[tuple[int, int], dict[FlowKey, Reading]] = {}
    for batch in probe.drain(END_INTERVAL_OVER):
        for record in wire(batch):
            flows = found.setdefault((record["if_index"], record["flow_direction"]), {})
            flows[reading(record).key] = reading(record)
    return found


@pytest.fixture(scope="module", params=[Mode.TCX, Mode.NATIVE, Mode.GENERIC])
def observed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    with exchanged(request.param, tmp_path_factory.mktemp("exchange")) as made:
        yield made


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_flows_are_those_on_the_wire(observed: Observed, direction: int) -> None:
    found, expected = observed.flows[direction], observed.expected(direction)
    assert "\n".join(differing(found, expected)) == ""


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_a_bridge_sees_them_come_in_and_go_out(observed: Observed, direction: int) -> None:
    expected = observed.expected(direction)
    came_in = observed.forwarded[direction == INGRESS, INGRESS]
    went_out = observed.forwarded[direction == EGRESS, EGRESS]
    assert "\n".join(differing(came_in, expected)) == ""
    assert "\n".join(differing(went_out, expected)) == ""


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_every_packet_on_the_wire_is_counted(observed: Observed, direction: int) -> None:
    frames, counts = observed.frames(direction), observed.counts[direction]
    assert counts.seen == Amount(len(frames), sum(map(len, frames)))
    flows = observed.flows[direction].values()
    assert counts.recorded == Amount(
        sum(each.packets for each in flows), sum(each.l2_bytes for each in flows)
    )
    # Twice ARP, LLDP and a third tag; IP of version 5, and IPv6 that is cut.
    assert counts.no_flow["non_ip"].packets == 2 * 3
    assert counts.no_flow["malformed"].packets == 2 * 2


def test_far_device_has_counted_as_many_packets(observed: Observed) -> None:
    # Its driver counts octets without link-layer headers.
    assert observed.statistics == {
        direction: counts.seen.packets for direction, counts in observed.counts.items()
    }


def test_device_has_larger_pieces_than_the_wire(observed: Observed) -> None:
    """Else the other tests would show nothing."""
    cut = {
        name: part
        for name, part in observed.parts.items()
        if CUT_OR_JOINED.search(name)
        and not re.search(NOT_JOINED[observed.mode], name)
        and name != CUT_EARLIER
    }
    assert len(cut) > (60 if observed.mode is not Mode.GENERIC else 40)
    assert {
        name: (len(part.device), len(part.wire))
        for name, part in cut.items()
        if len(part.device) >= len(part.wire)
    } == {}
    for end in ("4 out", "6 out", "4 in", "6 in"):
        big = [part for name, part in cut.items() if name.endswith(f"big {end}")]
        sizes = [len(piece) for part in big for piece in part.device]
        assert not sizes or max(sizes) > LEGACY_MAX_SIZE + 100

"""Captures replayed onto a veth: the flows drained are the reference's, no more and no less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from packets import captures, corpus, reference
from packets.kernel import END_INTERVAL_OVER, as_flows
from support import traffic

from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from pathlib import Path

    from support.net import Wire

MAX_FLOWS = 4099
# What a device of this MTU takes: its largest packet and a link header.
LARGEST_FRAME = 65535 + 14
FLOOD_PACKETS, FLOOD_FLOWS = 20_011, 97


def captured(
    wire: Wire, capture: Path, mode: Mode
) -> tuple[dict[reference.FlowKey, reference.Reading], dict[str, int]]:
    """Replay ``capture`` and return its flows and its packets without a flow."""
    count = len(captures.frames(capture))
    sent_before = wire.sender.statistic("tx_packets")
    with FlowProbe(max_flows=MAX_FLOWS) as kernel:
        with wire.receiver.namespace.entered():
            attachment = kernel.attach(wire.receiver.name, mode)
        try:
            assert attachment.mode == mode
            traffic.replay(wire.sender, capture)
            arrived = traffic.wait_until(lambda: attachment.counters().seen.packets >= count)
            assert arrived, (attachment.counters(), wire.receiver.statistic("rx_dropped"))
            attachment.detach()
            counters = attachment.counters()
        finally:
            attachment.close()
        flows = as_flows(kernel.drain(END_INTERVAL_OVER))
    assert wire.sender.statistic("tx_packets") - sent_before == count
    assert counters.seen.packets == count
    refused = {
        "non_ip": counters.no_flow["non_ip"].packets,
        "malformed": counters.no_flow["malformed"].packets,
    }
    return flows, {reason: packets for reason, packets in refused.items() if packets}


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
@pytest.mark.parametrize("capture", captures.CAPTURES, ids=lambda path: path.stem)
def test_replayed_capture_gives_the_flows_of_the_reference(
    wire: Wire, capture: Path, mode: Mode
) -> None:
    flows, refused = captured(wire, capture, mode)
    assert (flows, refused) == reference.flows(captures.frames(capture))


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_corpus_on_the_wire_gives_the_flows_of_the_reference(
    wire: Wire, mode: Mode, tmp_path: Path
) -> None:
    frames = [frame for frame in corpus.frames().values() if len(frame) <= LARGEST_FRAME]
    capture = traffic.write_capture(tmp_path / "corpus.pcap", frames)
    flows, refused = captured(wire, capture, mode)
    assert (flows, refused) == reference.flows(frames)


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_flood_is_counted_to_the_packet(wire: Wire, mode: Mode) -> None:
    dropped_before = wire.sender.statistic("tx_dropped")
    with FlowProbe(max_flows=MAX_FLOWS) as kernel:
        with wire.receiver.namespace.entered():
            attachment = kernel.attach(wire.receiver.name, mode)
        try:
            report = traffic.flood(wire.sender, "-n", FLOOD_PACKETS, "-f", FLOOD_FLOWS)
            # At full rate the veth's own queue may overflow: that is before XDP.
            dropped = wire.sender.statistic("tx_dropped") - dropped_before
            expected = report["sent"] - dropped
            traffic.wait_until(lambda: attachment.counters().seen.packets >= expected)
            attachment.detach()
            assert attachment.counters().seen.packets == expected
        finally:
            attachment.close()
        flows = as_flows(kernel.drain(END_INTERVAL_OVER))
    assert report["sent"] + report["err"] == FLOOD_PACKETS
    assert len(flows) == FLOOD_FLOWS
    assert sum(flow.packets for flow in flows.values()) == expected

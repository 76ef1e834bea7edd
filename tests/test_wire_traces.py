"""Captures sent by one device to another: each hook records what ``flowstream pcap`` reads.

But for frames that the kernel does not send, or drops before the hook.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from packets import captures, corpus
from packets.compare import differing
from packets.kernel import END_INTERVAL_OVER, as_flows
from support.agent import quiet
from support.net import namespace, veth_pair
from support.packet_socket import Capture, Sender
from support.pcap_runs import Runner
from support.traffic import wait_until, write_capture

from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from packets.reference import FlowKey, Reading
    from support.net import Wire

    from flowstream.kernel.flow import FlowAttachment

LINK_HEADER = 14
LARGEST = 65_535 + LINK_HEADER
TAGS = (b"\x81\x00", b"\x88\xa8")
TAG_AND_TYPE = 20
"""Octets that a received frame needs for its tag to be taken out, else it is dropped."""

TRACES = [frame for capture in captures.CAPTURES for frame in captures.frames(capture)]
CUT = [bytes(length) for length in range(LINK_HEADER)]
FRAMES = [
    *TRACES,
    *CUT,
    *(frame for frame in corpus.frames().values() if len(frame) <= LARGEST),
]
GRO = {Mode.NATIVE: "off", Mode.GENERIC: "on"}
SHOWN = 16_000
"""Octets of the largest packet whose link-layer header the program can put back."""
AT_ONCE = 64
"""Frames on their way: a veth has room for 256."""


@dataclass(frozen=True)
class Seen:
    """What one hook recorded: flows, and packets without a flow by reason."""

    flows: dict[FlowKey, Reading]
    no_flow: dict[str, int]
    total: Amount


@pytest.fixture(scope="module")
def between() -> Iterator[Wire]:
    with namespace() as here, namespace() as there, veth_pair(here, there) as ends:
        yield ends


def observed(probe: FlowProbe, attachment: FlowAttachment) -> Seen:
    counts = attachment.counters()
    reasons = ("non_ip", "malformed")
    no_flow = {name: counts.no_flow[name].packets for name in reasons}
    return Seen(as_flows(probe.drain(END_INTERVAL_OVER)), no_flow, counts.seen)


def sent(wire: Wire, mode: Mode) -> tuple[dict[str, Seen], list[bytes]]:
    """Send ``FRAMES`` past a hook of each kind, with XDP in this mode; also what was refused."""
    hooks = {
        "xdp": (wire.receiver, mode, INGRESS),
        "tcx ingress": (wire.receiver, Mode.TCX, INGRESS),
        "tcx egress": (wire.sender, Mode.TCX, EGRESS),
    }
    with contextlib.ExitStack() as stack:
        attached = {}
        for name, (device, how, direction) in hooks.items():
            probe = stack.enter_context(FlowProbe(max_flows=4_099))
            with device.namespace.entered():
                made = stack.enter_context(probe.attach(device.name, how, direction))
            attached[name] = (probe, made)
        sender = stack.enter_context(Sender(wire.sender))
        refused = deliver(sender, attached["xdp"][1])
        # What XDP has seen may be on its way to the TC hook.
        quiet(wire.receiver)
        for _, attachment in attached.values():
            attachment.detach()
        return {name: observed(*each) for name, each in attached.items()}, refused


def deliver(sender: Sender, attachment: FlowAttachment) -> list[bytes]:
    """Send all frames, at the receiver's pace; return those that the kernel refuses."""
    refused = []
    for sent, frame in enumerate(FRAMES):
        try:
            sender.send(frame)
        except OSError as err:
            if err.errno != errno.EINVAL:
                raise
            refused.append(frame)
        if sent % AT_ONCE == 0:
            arrived(attachment, sent + 1 - len(refused))
    arrived(attachment, len(FRAMES) - len(refused))
    return refused


def arrived(attachment: FlowAttachment, packets: int) -> None:
    """Wait for packets at the hook."""
    assert wait_until(lambda: attachment.counters().seen.packets >= packets)


def read(directory: Path, frames: Sequence[bytes]) -> Seen:
    """What ``flowstream pcap`` reads in them; the directory is made."""
    directory.mkdir()
    capture = write_capture(directory / "frames.pcap", frames)
    published = Runner(directory, None)(capture, audited=False)
    no_flow = {"non_ip": 0, "malformed": 0} | published.refused()
    return Seen(published.sums(), no_flow, amount(frames))


def amount(frames: Sequence[bytes]) -> Amount:
    return Amount(len(frames), sum(map(len, frames)))


def difference_of(found: Seen, expected: Seen) -> str:
    """A line for each flow that differs, and one for the packets without a flow."""
    rest, expected_rest = (found.no_flow, found.total), (expected.no_flow, expected.total)
    lines = [*differing(found.flows, expected.flows)]
    if rest != expected_rest:
        lines.append(f"{rest}, expected {expected_rest}")
    return "\n".join(lines)


def without_hidden_headers(directory: Path, frames: Sequence[bytes]) -> Seen:
    """What is expected behind generic XDP, which hides the link-layer header.

    It is not put back before a large packet, which is no IP then, nor before one that
    begins with the same octets, all zeros or all ones.
    """
    large = [frame for frame in frames if len(frame) > SHOWN]
    alike = [frame for frame in frames if frame[:LINK_HEADER] == frame[LINK_HEADER:][:LINK_HEADER]]
    assert (len(large), len(alike)) == (4, 2)
    shown = read(directory, [frame for frame in frames if len(frame) <= SHOWN])
    no_flow = {**shown.no_flow, "non_ip": shown.no_flow["non_ip"] + len(large)}
    lacking = Amount(0, -LINK_HEADER * len(large + alike))
    return Seen(shown.flows, no_flow, shown.total.plus(amount(large)).plus(lacking))


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_every_hook_reads_as_pcap(between: Wire, mode: Mode, tmp_path: Path) -> None:
    # A queue of its own, as with native XDP; with a generic program GRO joins nothing.
    between.receiver.namespace.run("ethtool", "-K", between.receiver.name, "gro", GRO[mode])
    found, refused = sent(between, mode)
    # A packet socket sends no cut link-layer header.
    assert refused == [frame for frame in FRAMES if len(frame) < LINK_HEADER]
    frames = [frame for frame in FRAMES if len(frame) >= LINK_HEADER]
    whole = read(tmp_path / "whole", frames)
    assert difference_of(found["xdp"], whole) == ""
    assert difference_of(found["tcx egress"], whole) == ""
    # The kernel drops what it receives with a tag that is cut, before this hook.
    kept = [frame for frame in frames if frame[12:14] not in TAGS or len(frame) >= TAG_AND_TYPE]
    assert len(frames) - len(kept) == 8
    expected = without_hidden_headers if mode is Mode.GENERIC else read
    assert difference_of(found["tcx ingress"], expected(tmp_path / "kept", kept)) == ""


def test_what_is_sent_past_the_hook_is_not_seen(between: Wire) -> None:
    with FlowProbe(max_flows=97) as probe, Capture(between.receiver) as wire:
        with between.sender.namespace.entered():
            attachment = probe.attach(between.sender.name, Mode.TCX, EGRESS)
        with attachment, Sender(between.sender) as sender:
            for bypass in (True, False):
                sender.bypass_queue(bypass)
                sender.send(TRACES[0])
            frames: list[bytes] = []
            assert wait_until(lambda: bool(frames.extend(wire.frames()) or len(frames) >= 2))
            assert attachment.counters().seen == Amount(1, len(TRACES[0]))
    assert frames == [TRACES[0]] * 2

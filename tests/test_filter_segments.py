"""Filters at the TC hook on packets whose octets are not all in one place."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from packets.kernel import END_INTERVAL_OVER, as_flows
from support.net import namespace, veth_pair

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.filtering.compiling import compile_here
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from support.net import Interface

NEAR, FAR, PORT = "10.0.0.1", "10.0.0.2", 7_007
PAYLOAD = b"A" * 1_000_003
DATA = "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x41414141"
"""Of packets whose payload begins so; the kernel keeps it behind the headers, in pages."""
FAR_IN_IT = "tcp[9000] = 0x41"
"""Only a segment that is still to be cut is as long."""


def send(sender: Interface, receiver: Interface) -> None:
    """Send the payload by TCP from one end to the other, and wait until it has arrived."""
    with receiver.namespace.entered():
        listener = socket.create_server((FAR, PORT))
    with sender.namespace.entered():
        source = socket.socket()
    with listener, source:
        source.connect((FAR, PORT))
        target, _ = listener.accept()
        with target:
            sending = threading.Thread(target=source.sendall, args=(PAYLOAD,))
            sending.start()
            left = len(PAYLOAD)
            while left:
                left -= len(target.recv(1 << 16))
            sending.join()


@pytest.mark.parametrize("expression", [DATA, FAR_IN_IT])
@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
def test_octets_in_pages_are_made_readable(direction: int, expression: str) -> None:
    with (
        namespace() as near,
        namespace() as far,
        veth_pair(near, far, mtu=1_500) as (sender, receiver),
        FlowProbe(max_flows=101, packet_filter=compile_here(expression)) as probe,
    ):
        for device, address in ((sender, NEAR), (receiver, FAR)):
            run = device.namespace.run
            run("ip", "address", "add", f"{address}/24", "dev", device.name)
            run("ip", "link", "set", device.name, "arp", "on")
            run("ethtool", "-K", device.name, "sg", "on", "tx", "on", "tso", "on", "gso", "on")
        observed = sender if direction == EGRESS else receiver
        with observed.namespace.entered():
            target = Target.named(observed.name, Mode.TCX, direction=direction)
            attachment = attach_here(probe, target)
        with attachment:
            send(sender, receiver)
            attachment.detach()
            counts = attachment.counters()
            (flow,) = as_flows(probe.drain(END_INTERVAL_OVER)).values()
    assert flow.dst_port == PORT
    payload = flow.bytes - flow.packets * (20 + 32)
    # A segment of less than four octets has none of the data, and one may be sent again.
    assert payload >= (len(PAYLOAD) - 1_448 if expression == DATA else 9_000)
    assert counts.seen.packets == flow.packets + counts.no_flow["filtered_out"].packets
    assert counts.no_flow["filtered_out"].packets > 0

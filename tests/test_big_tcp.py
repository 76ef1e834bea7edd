"""Segments of more than 64 KiB, whose IPv4 header has the length 0 (BIG TCP, generic mode)."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, on, records_of
from support.hosts import allow_big_segments
from support.net import Interface, namespace

from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

PAYLOAD = 31 << 20
PORT = 5998
HEADERS = 20 + 32
"""IPv4, and TCP with timestamps."""


@pytest.fixture
def pair() -> Iterator[tuple[Interface, Interface]]:
    """Two hosts, as the kernel makes them, whose devices take big segments."""
    with namespace() as here, namespace() as there:
        here.run(
            *("ip", "link", "add", "near", "type", "veth"),
            *("peer", "name", "far", "netns", there.name),
        )
        for place, name, address in ((here, "near", "10.78.0.1"), (there, "far", "10.78.0.2")):
            place.run("ip", "address", "add", f"{address}/24", "dev", name)
            place.run("ip", "link", "set", name, "up")
            with place.entered():
                allow_big_segments(socket.if_nametoindex(name))
        yield Interface(here, "near", 0), Interface(there, "far", 0)


def send(sender: Interface) -> None:
    with (
        sender.namespace.entered(),
        socket.create_connection(("10.78.0.2", PORT), timeout=60) as connection,
    ):
        connection.sendall(bytes(PAYLOAD))


def test_octets_of_segments_that_are_still_to_be_cut(pair, recording_url):
    sender, receiver = pair
    options = ("--mode", "generic", "--interval", 0.5, "--sink", recording_url)
    with receiver.namespace.entered():
        listener = socket.create_server(("10.78.0.2", PORT))
    with contextlib.closing(listener), Agent(*on(receiver), *options) as agent:
        agent.publishing()
        sending = threading.Thread(target=send, args=(sender,))
        sending.start()
        listener.settimeout(60)
        connection, _ = listener.accept()
        with connection:
            received = 0
            while octets := connection.recv(1 << 20):
                received += len(octets)
        sending.join()
        agent.stop()
    assert received == PAYLOAD
    audited(recording_url)
    flows = [
        record
        for record in records_of(recording_url, "flowstream.flows")
        if isinstance(record, FlowRecord) and record.dst_port == PORT
    ]
    packets = sum(record.packets for record in flows)
    octets, frames = (sum(getattr(each, n) for each in flows) for n in ("bytes", "l2_bytes"))
    assert frames == octets + 14 * packets
    # Some packets are larger than a header can tell, else this shows nothing.
    assert octets / packets > 1 << 16
    # SYN and retransmissions come to it.
    assert PAYLOAD + HEADERS * packets <= octets + 100 <= PAYLOAD * 1.1 + HEADERS * packets

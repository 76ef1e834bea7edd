"""A capture with known sums: conversations of eight hosts with a server, about 100 seconds."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from packets import build
from scapy.utils import RawPcapWriter

if TYPE_CHECKING:
    from pathlib import Path

START_S = 1_763_800_000
PACKETS = 5_003
STEP_US = 19_997
"""Between two packets."""

CLOSING_S = START_S + 3_600
CLOSING_SOURCE = "192.0.2.1"
"""One packet long after all others: whoever waits for time to pass sees it pass."""

SERVER, SERVER_PORT = "198.18.0.1", 443
CONNECTIONS = 31


class Sums(NamedTuple):
    """Packets and octets (IP) by source address."""

    packets: Counter[str]
    octets: Counter[str]


def write(path: Path) -> Sums:
    """Write the capture and return the sums of all its packets but the closing one."""
    sums = Sums(Counter(), Counter())
    with RawPcapWriter(str(path), linktype=1) as writer:
        writer.write_header(None)
        for number in range(PACKETS):
            source, packet = _packet(number)
            sums.packets[source] += 1
            sums.octets[source] += len(packet)
            sec, usec = divmod(number * STEP_US, 1_000_000)
            writer.write_packet(build.ether(0x0800, packet), sec=START_S + sec, usec=usec)
        closing = build.ether(0x0800, build.ip4(17, bytes(8), src=CLOSING_SOURCE, dst=SERVER))
        writer.write_packet(closing, sec=CLOSING_S, usec=0)
    return sums


def _packet(number: int) -> tuple[str, bytes]:
    """The source and the IPv4 packet: every third one is an answer of the server."""
    connection = number * 7 % CONNECTIONS
    client, port = f"10.0.0.{1 + connection % 8}", 40_001 + connection
    size = 8 + number * 13 % 1_009
    if number % 3:
        ends, source, destination = (port, SERVER_PORT), client, SERVER
    else:
        ends, source, destination = (SERVER_PORT, port), SERVER, client
    payload = struct.pack("!HHHH", *ends, size, 0) + bytes(size - 8)
    return source, build.ip4(17, payload, src=source, dst=destination)

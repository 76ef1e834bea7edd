"""Prints flow records as they are published, one line each."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from flowstream.reading.terms import TCP_FLAGS
from flowstream.records import FlowRecord, decode
from flowstream.source import open_source

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from rich.console import Console

    from flowstream.kafka.settings import ClientSettings

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


class Viewer:
    """Prints a topic's new flow records, read as any consumer reads them."""

    def __init__(
        self,
        url: str,
        topic: str,
        since_ns: int,
        console: Console,
        client: ClientSettings,
    ) -> None:
        self._url, self._topic, self._since_ns = url, topic, since_ns
        self._console, self._client = console, client
        self._next: dict[int, int] = {}
        self.shown = 0

    async def look(self) -> None:
        """Print the records published since the last call."""
        fresh = []
        source = open_source(self._url, [self._topic], client=self._client)
        async for messages in source.batches():
            for message in messages:
                if message.offset < self._next.get(message.partition, 0):
                    continue
                self._next[message.partition] = message.offset + 1
                record = decode(message.value)
                if isinstance(record, FlowRecord) and record.agent_epoch >= self._since_ns:
                    fresh.append(record)
        # There is no order between partitions.
        for record in sorted(fresh, key=lambda record: record.time_flow_end_ns):
            self._console.print(line(record), highlight=False, soft_wrap=True)
        self.shown += len(fresh)


def line(record: FlowRecord) -> str:
    """Format a flow record as a readable line."""
    end = dt.datetime.fromtimestamp(record.time_flow_end_ns / 1e9, dt.UTC)
    protocol = _PROTOCOLS.get(record.proto, str(record.proto))
    notes = [name for name, flag in TCP_FLAGS.items() if record.tcp_flags & flag]
    if record.vlan_id:
        notes.append(f"vlan {record.vlan_id}")
    source = _end(record.source, record.src_port)
    destination = _end(record.destination, record.dst_port)
    shown = (
        f"{end:%H:%M:%S}  {source:>28} -> {destination:<28} {protocol:<6} "
        f"{record.packets:>6,} packets {record.bytes:>9,} octets  {' '.join(notes)}"
    )
    return shown.rstrip()


def _end(address: IPv4Address | IPv6Address, port: int) -> str:
    if not port:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"

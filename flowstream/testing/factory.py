"""Flow records with sensible values, as records, as published values and as messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Final

from flowstream.records import SCHEMA_VERSION, FlowRecord, RecordType
from flowstream.records.text import (
    ETYPE_IPV4,
    ETYPE_IPV6,
    V4_MAPPED,
    address_bytes,
    mac_bytes,
)
from flowstream.testing import encoding
from flowstream.testing.fields import FIRST_NS, HOST_ID, SAMPLER, STEP_NS, checked

if TYPE_CHECKING:
    from flowstream.messages import Message

_PORTS: Final = range(49_152, 65_536)


class FlowFactory:
    """Makes records of one run: ``seq`` counts up per topic, each starts 1 ms after the last.

    Without overrides a record is one TCP packet from 10.0.0.1:49152 to
    10.0.0.2:443. ``host`` is the host's name in JSON, Protobuf and Avro.
    """

    def __init__(self, host: str = "test-host") -> None:
        self.host = host
        self._seq: defaultdict[int, int] = defaultdict(int)
        self._made = 0

    def __call__(self, **overrides: Any) -> FlowRecord:
        """Make a record with some fields as given.

        Addresses, MAC addresses and ``host_id`` may be text too. Other fields
        follow: ``etype`` and prefix lengths the addresses, ``l2_bytes`` ``bytes``;
        an announcement (``record_type`` 2) has no packets. Raises TypeError for an
        unknown field, ValueError for a value that its field cannot have.
        """
        given = checked(FlowRecord, overrides)
        record_type = given.get("record_type", int(RecordType.FLOW))
        start_ns = given.get("time_flow_start_ns", FIRST_NS + self._made * STEP_NS)
        end_ns = given.get("time_flow_end_ns", start_ns)
        is_flow = record_type == RecordType.FLOW
        packets = given.get("packets", int(is_flow))
        octets = given.get("bytes", 60 * packets)
        source = given.get("src_addr", address_bytes("10.0.0.1"))
        etype = given.get("etype", ETYPE_IPV4 if source.startswith(V4_MAPPED) else ETYPE_IPV6)
        bits = 32 if etype == ETYPE_IPV4 else 128
        values = {
            "record_type": record_type,
            "schema_version": SCHEMA_VERSION,
            "agent_epoch": FIRST_NS,
            "host_id": HOST_ID,
            "sampler_address": SAMPLER,
            "seq": self._seq[record_type],
            "time_received_ns": end_ns + STEP_NS,
            "time_flow_start_ns": start_ns,
            "time_flow_end_ns": end_ns,
            "etype": etype,
            "proto": 6,
            "src_addr": source,
            "dst_addr": address_bytes("10.0.0.2"),
            "src_net": bits,
            "dst_net": bits,
            "src_port": 49_152,
            "dst_port": 443,
            "icmp_type": 0,
            "icmp_code": 0,
            "tcp_flags": 0x10,
            "ip_tos": 0,
            "ip_ttl": 64,
            "vlan_id": 0,
            "if_index": 2,
            "if_name": "eth0",
            "src_mac": mac_bytes("02:00:00:00:00:01"),
            "dst_mac": mac_bytes("02:00:00:00:00:02"),
            "packets": packets,
            "bytes": octets,
            "l2_bytes": octets + 14 * packets,
            "flow_count": 1,
            "sampling_rate": 1,
            "end_reason": 2 if is_flow else 0,
            "flow_direction": 0,
        }
        self._seq[record_type] += 1
        self._made += 1
        return FlowRecord(**(values | given))

    def batch(self, count: int, **overrides: Any) -> list[FlowRecord]:
        """Make ``count`` records of flows that differ in ``src_port``, unless that is given.

        A field may be an iterable (but text and bytes are single values): each record
        takes the next element. Raises ValueError if there are fewer than ``count``.
        """
        columns = {
            name: _column(name, value, count) if _is_column(value) else [value] * count
            for name, value in {"src_port": cycle(_PORTS), **overrides}.items()
        }
        return [
            self(**{name: column[n] for name, column in columns.items()}) for n in range(count)
        ]

    def values(
        self,
        records: Iterable[FlowRecord],
        record_format: str = "json",
        *,
        names: str = "goflow2",
        community_id: bool = False,
    ) -> list[bytes]:
        """Encode as the agent does, with the same code; see ``flowstream run --format``.

        Protobuf is length-delimited; Avro stands behind a registry's prefix with the
        record type as the schema's id.
        """
        encoder = encoding.encoder(record_format, self.host, names, community_id=community_id)
        return encoding.flow_values(encoder, list(records))

    def messages(
        self,
        records: Iterable[FlowRecord],
        record_format: str = "json",
        *,
        topic: str = "flowstream.flows",
        partition_count: int = 6,
    ) -> list[Message]:
        """Messages with keys and partitions as the agent chooses them."""
        records = list(records)
        values = self.values(records, record_format)
        return encoding.flow_messages(values, records, topic, partition_count)


def _is_column(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _column(name: str, values: Iterable[Any], count: int) -> list[Any]:
    column = list(islice(values, count))
    if len(column) < count:
        raise ValueError(f"{name}: {len(column)} values for {count} records")
    return column

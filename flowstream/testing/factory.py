"""Flow records with sensible values, as records, as published values and as messages."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec
import numpy as np

from flowstream.accounting.identity import Identity
from flowstream.encode import Prefixes, make_encoder, partition_keys, partitions
from flowstream.kernel.records import TEMPLATE
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.messages import Message
from flowstream.records import SCHEMA_VERSION, FlowRecord, RecordType
from flowstream.records.text import (
    ETYPE_IPV4,
    ETYPE_IPV6,
    V4_MAPPED,
    address_bytes,
    host_id_bytes,
    mac_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

FIRST_NS: Final = 1_700_000_000_000_000_000
"""Unix time of the first record, and the run's epoch (a multiple of 1,024)."""
STEP_NS: Final = 1_000_000
_TYPES: Final = get_type_hints(FlowRecord, include_extras=True)
_PADDED_NAME: Final = 15
_SAMPLER: Final = address_bytes("192.0.2.1")
# As a schema registry would have numbered the topics' schemas.
_AVRO_PREFIXES: Final = Prefixes({kind: bytes([0, 0, 0, 0, kind]) for kind in RecordType})


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
        given = {name: _checked(name, value) for name, value in overrides.items()}
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
            "host_id": bytes(range(16)),
            "sampler_address": _SAMPLER,
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
        """Make ``count`` records of flows that differ in ``src_port``, unless that is given."""
        first = 49_152
        return [
            self(**({"src_port": first + n % (65_536 - first)} | overrides)) for n in range(count)
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
        records = list(records)
        encoder = make_encoder(
            record_format,
            Identity(FIRST_NS, bytes(16), self.host, _SAMPLER),
            names=names,
            community_id=community_id,
            prefixes=_AVRO_PREFIXES if record_format == "avro" else None,
        )
        return encoder.encode(_columns(records)) if records else []

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
        if not records:
            return []
        keys = partition_keys(_columns(records))
        to = partitions(keys, partition_count).tolist()
        offsets: defaultdict[int, int] = defaultdict(int)
        messages = []
        for n, value in enumerate(self.values(records, record_format)):
            time_ms = records[n].time_received_ns // 1_000_000
            offset = offsets[to[n]]
            offsets[to[n]] += 1
            messages.append(Message(topic, to[n], offset, time_ms, keys[n].tobytes(), value))
        return messages


def _checked(name: str, value: Any) -> Any:
    if name not in _TYPES:
        raise TypeError(f"FlowRecord has no field {name!r}")
    try:
        if name in _FROM_TEXT and not isinstance(value, bytes):
            value = _FROM_TEXT[name](str(value))
        return msgspec.convert(value, _TYPES[name])
    except ValueError as err:  # msgspec's errors too
        raise ValueError(f"{name}: {err}") from err


def _address(text: str) -> bytes:
    return address_bytes(str(ipaddress.ip_address(text)))


_FROM_TEXT: Final[dict[str, Callable[[str], bytes]]] = {
    "sampler_address": _address,
    "src_addr": _address,
    "dst_addr": _address,
    "src_mac": mac_bytes,
    "dst_mac": mac_bytes,
    "host_id": host_id_bytes,
}


def _columns(records: Sequence[FlowRecord]) -> NDArray[np.void]:
    """Return the records as the kernel lays them out: shape (n,), dtype FLOW_RECORD."""
    columns = np.repeat(TEMPLATE, len(records)).astype(FLOW_RECORD)
    for name in FlowRecord.__struct_fields__:
        values = [getattr(record, name) for record in records]
        if name == "if_name":
            values = [value.encode().ljust(_PADDED_NAME, b"\0") for value in values]
        if isinstance(values[0], bytes):
            columns[name] = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
        else:
            columns[name] = values
    return columns

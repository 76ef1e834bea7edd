"""Pairs the flow records of both directions of each connection into a biflow (RFC 5103)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from flowstream.records.community import Ends, ends_of
from flowstream.records.connection import Connection
from flowstream.records.flow import FlowRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.records.biflow import Biflow
    from flowstream.records.counters import CountersRecord


class BiflowPairing:
    """Pairs records as they come, in any order, each once.

    ``feed`` it, and call ``expire`` from time to time: it holds one state for each
    connection that was not given out yet, ``len`` of them. Both directions of a
    connection have one message key, so a consumer of some partitions may pair theirs.
    What ``expire`` gave out is forgotten: later packets of that connection are a
    biflow of their own.

    Announcements add no packets, but tell who began: feed those of ``new_flows`` too.
    Aggregated records (``flow_count`` above 1) belong to no connection. They are
    counted in ``aggregated_records`` and ``aggregated_packets``. Fragments past the
    first have no ports, so they are a biflow of their own. VLANs and interfaces are
    not told apart, and no integer is multiplied by ``sampling_rate``.
    """

    def __init__(self) -> None:
        self.aggregated_records = 0
        self.aggregated_packets = 0
        self._connections: dict[tuple[int, int, Ends], Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def feed(self, record: FlowRecord | CountersRecord) -> None:
        """Add a record to its connection; counters are passed over."""
        if not isinstance(record, FlowRecord):
            return
        if record.flow_count > 1:
            self.aggregated_records += 1
            self.aggregated_packets += record.packets
            return
        ends, sender = ends_of(record)
        key = record.etype, record.proto, ends
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = Connection(*key)
        connection.add(record, sender)

    def expire(self, before_ns: int) -> list[Biflow]:
        """Give out the biflows whose last packet so far is older than ``before_ns``, Unix ns.

        Records come an interval after their packets, and later after an outage: see
        "Windows, clocks and late records" in docs/consumers.md.
        """
        over = [key for key, each in self._connections.items() if each.end_ns < before_ns]
        found = [self._connections.pop(key).biflow() for key in over]
        return sorted((each for each in found if each), key=_order)

    def flush(self) -> list[Biflow]:
        """Give out all biflows."""
        return self.expire(1 << 64)


def biflows(records: Iterable[FlowRecord | CountersRecord]) -> list[Biflow]:
    """Pair all of ``records``, each once, in any order; the earliest biflow first.

    See ``BiflowPairing``, which does it with bounded memory. Connections that used the
    same ports one after the other are one biflow here. A UserWarning tells how many
    aggregated records were left out.
    """
    pairing = BiflowPairing()
    for record in records:
        pairing.feed(record)
    if pairing.aggregated_records:
        warnings.warn(
            f"{pairing.aggregated_records:,} aggregated records with "
            f"{pairing.aggregated_packets:,} packets belong to no connection: left out",
            stacklevel=2,
        )
    return pairing.flush()


def _order(biflow: Biflow) -> tuple[object, ...]:
    return (
        *(biflow.time_flow_start_ns, biflow.etype, biflow.proto, biflow.src_addr),
        *(biflow.src_port, biflow.dst_addr, biflow.dst_port, biflow.icmp_type, biflow.icmp_code),
    )

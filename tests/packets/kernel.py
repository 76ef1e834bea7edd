"""The kernel program's reading of packets, in the terms of the independent reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
from support.programs import TCX_NEXT, XDP_PASS, FlowBench

from flowstream.kernel.link import Mode
from packets.build import ether as ethernet
from packets.build import ip4, udp
from packets.reference import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from packets.reference import FlowKey, Refusal

IF_INDEX = 7
REFUSALS: tuple[Refusal, Refusal] = ("non_ip", "malformed")
"""In the order of enum no_flow_reason (bpf/parsing.h)."""
ETYPE_IPV4 = 0x0800
ETHERNET = 14
"""Octets of an untagged Ethernet header."""
END_INTERVAL_OVER = 2
END_LACK_OF_RESOURCES = 5

# docs/records.md, in the order on the wire.
WIRE_FIELDS = (
    *("record_type", "schema_version", "agent_epoch", "host_id", "sampler_address", "seq"),
    *("time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "etype", "proto"),
    *("src_addr", "dst_addr", "src_net", "dst_net", "src_port", "dst_port"),
    *("icmp_type", "icmp_code", "tcp_flags", "ip_tos", "ip_ttl", "vlan_id"),
    *("if_index", "if_name", "src_mac", "dst_mac", "packets", "bytes", "l2_bytes"),
    *("flow_count", "sampling_rate", "end_reason", "flow_direction"),
)

# Not in the corpus: it occupies the only entry of a table for one flow.
OCCUPANT = ethernet(0x0800, ip4(17, udp(), src="192.0.2.1", dst="192.0.2.2"))


def wire(records: NDArray[np.void]) -> list[dict[str, Any]]:
    """Read records as a consumer does: each as a MessagePack array."""
    octets = [record.tobytes() for record in records]
    return [
        dict(zip(WIRE_FIELDS, msgspec.msgpack.decode(record), strict=True)) for record in octets
    ]


def reading(record: dict[str, Any]) -> Reading:
    """Return what the record says of its packets; times, names and numbers left out."""
    return Reading(**{field: record[field] for field in Reading.__slots__})


def as_flows(batches: Iterable[NDArray[np.void]]) -> dict[FlowKey, Reading]:
    """Return drained records by flow; no flow may have two."""
    readings = [reading(record) for batch in batches for record in wire(batch)]
    flows = {each.key: each for each in readings}
    assert len(flows) == len(readings), "a flow was drained twice"
    return flows


class Kernel:
    """The program without an interface.

    With ``max_flows=1`` the table is full from the start, so that each packet
    leaves as a record of its own. ``raw``: packets begin with their IP header.
    """

    def __init__(self, max_flows: int = 1, *, raw: bool = False, mode: Mode = Mode.AUTO) -> None:
        self.bench = FlowBench(max_flows=max_flows, if_index=IF_INDEX, raw=raw, mode=mode)
        self._passed = TCX_NEXT if mode is Mode.TCX else XDP_PASS
        if max_flows == 1:
            self.run(OCCUPANT[ETHERNET:] if raw else OCCUPANT)

    def run(self, frame: bytes) -> None:
        """Run one packet, which must pass unchanged and be counted once."""
        before = self.bench.counters()
        ran = self.bench.run(frame)
        after = self.bench.counters()
        assert ran.verdict == self._passed
        assert ran.packet == frame
        assert after["seen_packets"] - before["seen_packets"] == 1
        assert after["seen_l2_bytes"] - before["seen_l2_bytes"] == len(frame)

    def observe(self, frame: bytes) -> Reading | Refusal:
        """Run one packet and return the one place where it ended (``max_flows=1`` only)."""
        before = self.bench.counters()
        self.run(frame)
        after = self.bench.counters()
        records = wire(self.bench.probe.overflow.read(2))
        grown = {name for name in after if after[name] != before[name]}
        grown -= {"seen_packets", "seen_l2_bytes", "announced", "announcement_lost"}
        if grown == {"no_flow_packets", "no_flow_l2_bytes"} and not records:
            packets = np.subtract(after["no_flow_packets"], before["no_flow_packets"]).tolist()
            l2_bytes = np.subtract(after["no_flow_l2_bytes"], before["no_flow_l2_bytes"]).tolist()
            reason = packets.index(1)
            assert (sum(packets), sum(l2_bytes), l2_bytes[reason]) == (1, len(frame), len(frame))
            return REFUSALS[reason]
        assert grown == {"overflow_packets", "overflow_l2_bytes"}
        (record,) = records
        assert (record["record_type"], record["if_index"]) == (1, IF_INDEX)
        assert record["end_reason"] == END_LACK_OF_RESOURCES
        bits = 32 if record["etype"] == ETYPE_IPV4 else 128
        assert (record["src_net"], record["dst_net"]) == (bits, bits)
        assert (record["flow_count"], record["flow_direction"]) == (1, 0)
        return reading(record)

    def flows(self) -> dict[FlowKey, Reading]:
        """Swap the tables and return what was in the active one."""
        return as_flows(self.bench.probe.drain(END_INTERVAL_OVER))

    def refused(self) -> dict[str, int]:
        """Count packets without a flow since the start, under the reasons that occurred."""
        counts = zip(REFUSALS, self.bench.counters()["no_flow_packets"], strict=False)
        return {reason: count for reason, count in counts if count}

    def close(self) -> None:
        """Release everything."""
        self.bench.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

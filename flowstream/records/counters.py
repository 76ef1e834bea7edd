"""The record of the topic ``PREFIX.counters``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

# msgspec reads the annotations at run time.
from flowstream.records.fields import (  # noqa: TC001
    U32,
    U64,
    CountersType,
    HostId,
    IfName,
    Version,
)


class Loss(Struct, frozen=True):
    """What one cause has lost since ``agent_epoch``."""

    records: Annotated[U64, Meta(description="flow records or announcements lost")]
    packets: Annotated[U64, Meta(description="packets that those records counted")]
    bytes: Annotated[U64, Meta(description="frame octets that those records counted")]


class StageCounts(Struct, frozen=True):
    """Records that each stage has handed on since ``agent_epoch``."""

    drained: Annotated[U64, Meta(description="records read from the kernel")]
    encoded: Annotated[U64, Meta(description="records that got a seq and a value")]
    queued: Annotated[U64, Meta(description="records accepted by the sink")]
    acknowledged: Annotated[U64, Meta(description="records that the sink has stored: published")]
    spooled: Annotated[U64, Meta(description="records kept on disk for later")]
    failed: Annotated[U64, Meta(description="records that the sink gave up; losses has the cause")]


class CountersRecord(Struct, array_like=True, frozen=True):
    """Counts of one interface, cumulative since ``agent_epoch``: a lost record loses nothing.

    At any quiet moment, and exactly in the record with ``final``::

        rx_packets = non_ip_packets + malformed_packets + sampled_out_packets
                   + counted_packets
                   + sum(packets of the published flow records of this run and interface)
                   + sum(loss.packets for loss in losses.values())

    and the same with ``rx_bytes``, the ``…_bytes`` and the flow records'
    ``l2_bytes``: all octets here are frame octets, without FCS.
    """

    record_type: Annotated[CountersType, Meta(description="3 = counters")]
    schema_version: Annotated[
        Version, Meta(description="1; a field is only ever added at the end")
    ]
    agent_epoch: Annotated[
        U64,
        Meta(description="Unix ns at which this agent run began: with host_id it names the run"),
    ]
    host_id: Annotated[HostId, Meta(description="machine id of the host (/etc/machine-id)")]
    seq: Annotated[U64, Meta(description="gapless per run and topic, from 0")]
    host: Annotated[str, Meta(description="name of the host")]
    in_if: Annotated[U32, Meta(description="index of the interface")]
    in_if_name: Annotated[IfName, Meta(description="name of the interface")]
    program_name: Annotated[str, Meta(description="name of the kernel program")]
    program_id: Annotated[U32, Meta(description="id of the kernel program, 0 when it has none")]
    xdp_mode: Annotated[
        Literal["native", "generic", "offload"], Meta(description="attach mode in force")
    ]
    time_unix_ns: Annotated[U64, Meta(description="Unix ns at which the counters were read")]
    time_boot_ns: Annotated[U64, Meta(description="the same moment in ns since boot")]
    rx_packets: Annotated[U64, Meta(description="packets that the program saw")]
    rx_bytes: Annotated[U64, Meta(description="frame octets that the program saw")]
    non_ip_packets: Annotated[U64, Meta(description="packets that are neither IPv4 nor IPv6")]
    non_ip_bytes: Annotated[U64, Meta(description="frame octets of non_ip_packets")]
    malformed_packets: Annotated[U64, Meta(description="packets cut or with a false header")]
    malformed_bytes: Annotated[U64, Meta(description="frame octets of malformed_packets")]
    sampled_out_packets: Annotated[U64, Meta(description="packets that sampling passed over")]
    sampled_out_bytes: Annotated[U64, Meta(description="frame octets of sampled_out_packets")]
    counted_packets: Annotated[
        U64, Meta(description="packets counted without flow records; 0 for xdp_flow")
    ]
    counted_bytes: Annotated[U64, Meta(description="frame octets of counted_packets")]
    losses: Annotated[
        dict[str, Loss],
        Meta(description="every loss under its cause, such as overflow_lost, delivery_timeout"),
    ]
    flows: Annotated[StageCounts, Meta(description="stages of the topic flows")]
    new_flows: Annotated[StageCounts, Meta(description="stages of the topic new_flows")]
    table_entries: Annotated[U64, Meta(description="flows in the table when it was read")]
    table_capacity: Annotated[U64, Meta(description="flows that the table can hold")]
    table_swaps: Annotated[U64, Meta(description="times that the table was swapped")]
    final: Annotated[bool, Meta(description="true in the last record of a run")]

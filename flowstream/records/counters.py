"""The record of the topic ``PREFIX.counters``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

# msgspec reads the annotations at run time.
from flowstream.records.fields import (  # noqa: TC001
    U32,
    U64,
    AgentEpoch,
    CountersType,
    Direction,
    HostId,
    IfIndex,
    IfName,
    SamplerAddress,
    Version,
)


class Amount(Struct, frozen=True):
    """Packets since ``agent_epoch``."""

    packets: Annotated[U64, Meta(description="packets")]
    l2_bytes: Annotated[U64, Meta(description="their frame octets, without FCS")]


class Loss(Struct, frozen=True):
    """Records since ``agent_epoch`` that are lost or in doubt by one cause."""

    records: Annotated[U64, Meta(description="flow records or announcements")]
    packets: Annotated[U64, Meta(description="packets that those records counted")]
    l2_bytes: Annotated[U64, Meta(description="frame octets that those records counted")]


class StageCounts(Struct, frozen=True):
    """Records that passed each stage since ``agent_epoch``."""

    drained: Annotated[U64, Meta(description="records read from the kernel")]
    encoded: Annotated[U64, Meta(description="records that got a seq and a value")]
    queued: Annotated[U64, Meta(description="records accepted by the sink")]
    acknowledged: Annotated[U64, Meta(description="records that the sink has stored: published")]
    spooled: Annotated[U64, Meta(description="records written to the spool, for later")]
    failed: Annotated[U64, Meta(description="records that the sink gave up; losses has the cause")]
    aggregated: Annotated[U64, Meta(description="records merged into others before encoding")]


NO_STAGE: Final = StageCounts(0, 0, 0, 0, 0, 0, 0)
"""Counts of a stream that has no records."""


class SpoolCounts(Struct, frozen=True):
    """The spool when the counters were read; what waits there may decrease."""

    records: Annotated[U64, Meta(description="records of this interface that wait on disk")]
    packets: Annotated[U64, Meta(description="packets that those records counted")]
    l2_bytes: Annotated[U64, Meta(description="frame octets that those records counted")]
    octets: Annotated[U64, Meta(description="octets of the whole spool, of all interfaces")]
    oldest_ns: Annotated[
        U64, Meta(description="Unix ns of the oldest record of the whole spool, 0 when empty")
    ]


EMPTY_SPOOL: Final = SpoolCounts(0, 0, 0, 0, 0)
"""An empty spool, or none."""


class CountersRecord(Struct, array_like=True, frozen=True):
    """Counts of one interface and direction, cumulative since ``agent_epoch``.

    At any quiet moment, and exactly in the record with ``final``::

        seen_packets = sum(amount.packets for amount in no_flow.values())
                     + sum(packets of the published flow records of this run, interface
                           and direction)
                     + sum(loss.packets for loss in losses.values())

    and the same for ``seen_l2_bytes`` and ``l2_bytes``. Where records are
    ``in_doubt`` or wait in the ``spool`` the difference lies between 0 and their
    sum. The keys of the maps may grow without a new ``schema_version``: sum a map whole.
    """

    record_type: Annotated[CountersType, Meta(description="3 = counters")]
    schema_version: Version
    agent_epoch: AgentEpoch
    host_id: HostId
    sampler_address: SamplerAddress
    seq: Annotated[U64, Meta(description="gapless per run and topic, from 0")]
    host: Annotated[str, Meta(description="name of the host")]
    agent_version: Annotated[str, Meta(description="version of flowstream")]
    if_index: IfIndex
    if_name: IfName
    flow_direction: Direction
    program_name: Annotated[str, Meta(description="name of the kernel program")]
    program_id: Annotated[U32, Meta(description="id of the kernel program, 0 when it has none")]
    attach_mode: Annotated[
        Literal["native", "generic", "offload", "tcx", "clsact"],
        Meta(description="attach mode in force"),
    ]
    time_unix_ns: Annotated[U64, Meta(description="Unix ns at which the counters were read")]
    time_boot_ns: Annotated[U64, Meta(description="the same moment in ns since boot")]
    interval_ns: Annotated[U64, Meta(description="ns between two records of a lasting flow")]
    counters_period_ns: Annotated[U64, Meta(description="ns between two counters records")]
    seen_packets: Annotated[U64, Meta(description="packets that the program saw")]
    seen_l2_bytes: Annotated[U64, Meta(description="their frame octets, without FCS")]
    no_flow: Annotated[
        dict[str, Amount],
        Meta(description="packets in no flow record, by reason: non_ip, malformed, ..."),
    ]
    losses: Annotated[
        dict[str, Loss],
        Meta(description="records lost, by cause: overflow_lost, delivery_timeout, ..."),
    ]
    in_doubt: Annotated[
        dict[str, Loss],
        Meta(
            description="records sent and never answered, by cause: only seq tells whether "
            "they arrived"
        ),
    ]
    stages: Annotated[
        dict[str, StageCounts],
        Meta(description="records of each topic that passed each stage: flows, new_flows"),
    ]
    table_entries: Annotated[U64, Meta(description="flows in the table when it was read")]
    table_capacity: Annotated[U64, Meta(description="flows that the table can hold")]
    table_swaps: Annotated[U64, Meta(description="times that the table was swapped")]
    final: Annotated[
        bool, Meta(description="true in the last record of a run, or of an interface that went")
    ]
    spool: Annotated[
        SpoolCounts, Meta(description="records that wait on disk to be published")
    ] = EMPTY_SPOOL
    netns: Annotated[
        str,
        Meta(description="network namespace as given to --netns; empty: the agent's own"),
    ] = ""
    previous_epoch: Annotated[
        U64,
        Meta(
            description="agent_epoch of the run whose link on this interface this run took "
            "over without a gap, 0 for none"
        ),
    ] = 0

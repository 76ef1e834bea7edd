"""Recordings of many flow records, whose audit holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from flowstream.accounting.identity import Identity
from flowstream.encode import stamp
from flowstream.messages import MessageBatch
from flowstream.records import Amount, CountersRecord, SpoolCounts, StageCounts
from flowstream.segments.sink import SegmentSink
from flowstream.streams import Stream
from support.outcomes import Account
from support.records import COUNTERS, EPOCH, SAMPLER, encoder_of, flow_records

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IDENTITY: Final = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})
HOSTS: Final = 4_001
"""Clients, of which each flow has one; a prime, so flows do not repeat early."""
STEP_NS: Final = 10_007
"""From the start of a record to that of the next."""
BATCH: Final = 8_192


def record_many(directory: Path, count: int, *, flows: int) -> None:
    """Write a recording of ``count`` MessagePack records of so many flows, and its counters."""
    asyncio.run(_record(directory, count, flows))


async def _record(directory: Path, count: int, flows: int) -> None:
    sink = SegmentSink(directory, Account(), partitions=1)
    await sink.start([f"flowstream.{stream}" for stream in Stream])
    encoder = encoder_of("msgpack", IDENTITY)
    packets = octets = 0
    for first in range(0, count, BATCH):
        records = _records(first, min(BATCH, count - first), flows)
        packets += int(records["packets"].sum())
        octets += int(records["l2_bytes"].sum())
        await _send(sink, Stream.FLOWS, encoder.encode(records))
    final = _final(count, packets, octets)
    await _send(sink, Stream.COUNTERS, [encoder.encode_counters(final)])
    await sink.flush(60)
    await sink.close(60)


async def _send(sink: SegmentSink, stream: Stream, values: list[bytes]) -> None:
    none = [0] * len(values)
    batch = MessageBatch(f"flowstream.{stream}", 0, none, [b"12345678"] * len(values), values)
    await sink.send(batch)


def _records(first: int, count: int, flows: int) -> NDArray[np.void]:
    numbers = np.arange(first, first + count, dtype=np.uint64)
    flow = numbers % np.uint64(flows)
    records = flow_records(
        count,
        etype=0x0800,
        proto=6,
        src_net=32,
        dst_net=32,
        dst_port=443,
        if_index=3,
        packets=3,
        bytes=1_009,
        l2_bytes=1_051,
        flow_count=1,
        sampling_rate=1,
    )
    records["src_port"] = 1_024 + flow // HOSTS % 64_000
    client = (flow % HOSTS).astype(">u4").view(np.uint8).reshape(-1, 4)
    for name in ("src_addr", "dst_addr"):
        records[name][:, 10:12] = 0xFF
    records["src_addr"][:, 12:] = client | np.array([10, 0, 0, 0], np.uint8)
    records["dst_addr"][:, 12:] = (192, 0, 2, 1)
    records["time_flow_start_ns"] = EPOCH + numbers * STEP_NS
    records["time_flow_end_ns"] = records["time_flow_start_ns"] + 1_000_000_007
    records["time_received_ns"] = records["time_flow_end_ns"] + STEP_NS
    stamp(records, IDENTITY, first)
    return records


def _final(count: int, packets: int, octets: int) -> CountersRecord:
    stage = StageCounts(count, count, count, count, 0, 0, 0)
    return msgspec.structs.replace(
        COUNTERS,
        agent_epoch=EPOCH,
        host_id=IDENTITY.host_id,
        host=IDENTITY.host,
        seq=0,
        if_index=3,
        if_name="eth0",
        flow_direction=0,
        seen_packets=packets + 17,
        seen_l2_bytes=octets + 1_003,
        no_flow={"non_ip": Amount(17, 1_003)},
        losses={},
        in_doubt={},
        stages={"flows": stage},
        spool=SpoolCounts(0, 0, 0, 0, 0),
        netns="",
        previous_epoch=0,
        final=True,
    )

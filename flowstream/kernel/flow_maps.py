"""Counters and record rings of the flow programs, as user space reads them.

A run reads its own, those that an earlier run has left, or those of a capture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.kernel import records
from flowstream.kernel.record_ring import RecordRing
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.layouts import flow as layout
from flowstream.layouts.constants import NoFlowReason
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.kernel.maps import PerCpuArray
    from flowstream.kernel.object import KernelObject

OVERFLOW_SIZE = 16 << 20
ANNOUNCEMENTS_SIZE = 4 << 20
_RINGS = {
    "overflow": (Stream.FLOWS, OVERFLOW_SIZE),
    "announcements": (Stream.NEW_FLOWS, ANNOUNCEMENTS_SIZE),
}


def kernel_counts(counters: PerCpuArray) -> KernelCounts:
    """Sum struct counters over all possible CPUs."""
    total = counters.total()
    lost = total["overflow_lost_packets"]
    return KernelCounts(
        seen=Amount(total["seen_packets"], total["seen_l2_bytes"]),
        no_flow=dict(
            zip(
                (reason.name.lower() for reason in NoFlowReason),
                map(Amount, total["no_flow_packets"], total["no_flow_l2_bytes"]),
                strict=True,
            )
        ),
        losses={
            terms.OVERFLOW_LOST: RecordAmount(lost, lost, total["overflow_lost_l2_bytes"]),
            terms.ANNOUNCEMENT_LOST: RecordAmount(total["announcement_lost"]),
        },
    )


def flow_ring(obj: KernelObject, name: str, fd: int | None = None) -> RecordRing:
    """Ring "overflow" or "announcements": a new one, or the one behind ``fd``, which it owns."""
    stream, size = _RINGS[name]
    spec = obj.map(name)
    if fd is None:
        ring = RingBuffer(spec, layout.FLOW_RECORD, size)
    else:
        ring = RingBuffer.from_fd(fd, spec, layout.FLOW_RECORD, size)
    return RecordRing(ring, stream, records.with_unix_times)

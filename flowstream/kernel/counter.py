"""xdp_counter: counts packets and IPv4 sources; announces each source once.

Each interface has maps of its own: an announcement is 4 octets of address, so
only the ring buffer that it came by tells the interface.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.tally import AttachmentKey
from flowstream.closing import Closing
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import features, records
from flowstream.kernel.link import Mode, interface_index
from flowstream.kernel.maps import HashMap, PerCpuArray
from flowstream.kernel.program import INGRESS, Program
from flowstream.kernel.record_ring import RecordRing
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.layouts.constants import PktCounter
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowstream.kernel.object import KernelObject

NAME = "xdp_counter"
PROGRAM = "count_ipv4"
EVENTS_SIZE = 1 << 20
SOURCE = np.dtype(np.uint32)
"""An IPv4 address as it stands in the packet."""


class CounterMaps(Closing):
    """Maps and program of one interface, not attached.

    ``ring`` has announcements as new-flow records, with only the IPv4 source set.
    """

    def __init__(
        self, obj: KernelObject, *, if_index: int, max_sources: int, sampling: int = 1,
        offload: bool = False,
    ) -> None:  # fmt: skip
        self.if_index = if_index
        self._found_full = self._forgotten = 0
        self._emptying = threading.Lock()
        with ExitStack() as stack:
            self.pkt_count = stack.enter_context(
                PerCpuArray(obj.map("pkt_count"), np.dtype(np.uint64))
            )
            self.seen_ips = stack.enter_context(
                HashMap(obj.map("seen_ips"), SOURCE, np.dtype(np.uint64), max_sources)
            )
            self.new_flow_events = stack.enter_context(
                RingBuffer(obj.map("new_flow_events"), SOURCE, EVENTS_SIZE)
            )
            maps = {each.name: each.fd for each in (self.pkt_count, self.seen_ips)}
            maps["new_flow_events"] = self.new_flow_events.fd
            self.program = stack.enter_context(
                Program(
                    obj.program(PROGRAM),
                    maps,
                    if_index=if_index,
                    sampling=sampling,
                    offload=offload,
                )
            )
            self.ring = RecordRing(
                self.new_flow_events,
                Stream.NEW_FLOWS,
                partial(records.from_sources, if_index=if_index, sampling=sampling),
            )
            self._stack = stack.pop_all()

    def sources(self) -> dict[int, int]:
        """Packets by IPv4 source (network byte order), a snapshot without order."""
        return {
            int(source): int(packets)
            for keys, values in self.seen_ips.snapshot()
            for source, packets in zip(keys, values, strict=True)
        }

    def known(self) -> int:
        """Sources in the table."""
        # Counted as they are inserted and deleted: a walk of the table would take seconds.
        announced: int = self.pkt_count.total(PktCounter.ANNOUNCED)[""]
        return announced - self._forgotten

    def forget_when_full(self) -> bool:
        """Empty the table of sources if packets found it full since the last call.

        Else new sources would never be announced again. Those that were known are
        announced once more when they next send. Blocks, 0.1 µs per source.
        """
        with self._emptying:
            if self.seen_ips.fd < 0:
                return False
            full = self.pkt_count.total(PktCounter.SOURCE_TABLE_FULL)[""]
            if full == self._found_full:
                return False
            self._found_full = full
            self._forgotten += sum(len(keys) for keys, _ in self.seen_ips.drain())
            return True

    def counters(self) -> KernelCounts:
        """The program's counts, summed over all possible CPUs."""
        count = {each.name: self.pkt_count.total(each)[""] for each in PktCounter}
        amounts = {
            name: Amount(count[f"{name.upper()}_PACKETS"], count[f"{name.upper()}_L2_BYTES"])
            for name in ("seen", *terms.NO_FLOW)
        }
        return KernelCounts(
            seen=amounts.pop("seen"),
            no_flow=amounts,
            losses={
                terms.ANNOUNCEMENT_LOST: RecordAmount(count["ANNOUNCEMENT_LOST"]),
                terms.SOURCE_TABLE_FULL: RecordAmount(count["SOURCE_TABLE_FULL"]),
            },
        )

    def close(self) -> None:
        """Release everything; harmless twice."""
        # The maps must not vanish from under a worker thread.
        with self._emptying:
            self._stack.close()


class CounterAttachment(Closing):
    """xdp_counter on one interface; ``close`` detaches; harmless twice."""

    def __init__(self, probe: CounterProbe, maps: CounterMaps, interface: str, mode: Mode) -> None:
        self._probe = probe
        self.maps = maps
        self.interface, self.index = interface, maps.if_index
        self.key = AttachmentKey(self.index, INGRESS)
        self.program = maps.program
        self.counters = maps.counters
        self.rings = (maps.ring,)
        self._link = maps.program.attach(interface, mode)
        self.mode = self._link.mode

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read."""
        self._link.close()

    def close(self) -> None:
        """Detach and release everything."""
        self.detach()
        self.maps.close()
        self._probe.forget(self)


class CounterProbe(Closing):
    """xdp_counter as a probe: ``max_flows`` is the number of sources per interface."""

    def __init__(self, *, max_flows: int = 131_072, sampling: int = 1) -> None:
        features.require_kernel()
        features.raise_memlock()
        self._object = bpf_compile.obtain(NAME)
        self.max_flows, self.sampling = max_flows, sampling
        self.swaps = 0
        """How often a table of sources was full and emptied."""
        self._attached: list[CounterAttachment] = []
        self.rings: tuple[()] = ()
        self.wakeups: None = None

    def attach(self, interface: str, mode: Mode = Mode.AUTO) -> CounterAttachment:
        """Load and attach to ``interface``; KernelError names the remedy."""
        maps = self.maps(interface_index(interface), offload=mode is Mode.OFFLOAD)
        try:
            attachment = CounterAttachment(self, maps, interface, mode)
        except BaseException:
            maps.close()
            raise
        self._attached.append(attachment)
        return attachment

    def forget(self, attachment: CounterAttachment) -> None:
        """No longer count an attachment that is closed."""
        if attachment in self._attached:
            self._attached.remove(attachment)

    def maps(self, if_index: int, *, offload: bool = False) -> CounterMaps:
        """Load the program for an interface index, without attaching it."""
        return CounterMaps(
            self._object, if_index=if_index, max_sources=self.max_flows, sampling=self.sampling,
            offload=offload,
        )  # fmt: skip

    def table_entries(self) -> int:
        """Sources known, over all interfaces."""
        return sum(each.maps.known() for each in self._attached)

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Empty the tables of sources that were full; no batches: there are no flow records."""
        del end_reason
        for each in tuple(self._attached):
            self.swaps += each.maps.forget_when_full()
        yield from ()

    def close(self) -> None:
        """Detach from every interface and release everything; harmless twice."""
        for attachment in list(self._attached):
            attachment.close()

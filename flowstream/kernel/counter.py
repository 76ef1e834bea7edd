"""The counter programs: they count packets and IPv4 sources, and announce each source once.

Each attachment has maps of its own: an announcement is 4 octets of address, so
only the ring buffer that it came by tells interface and direction.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import INGRESS
from flowstream.closing import Closing
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import features, libbpf, records, structures
from flowstream.kernel.attached import adopted
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.creator import Creator
from flowstream.kernel.link import Hook, Mode
from flowstream.kernel.maps import HashMap, PerCpuArray
from flowstream.kernel.parts import owned
from flowstream.kernel.program import Program
from flowstream.kernel.record_ring import RecordRing
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.kernel.target import Target
from flowstream.layouts.constants import PktCounter
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from flowstream.kernel.attached import Attached
    from flowstream.kernel.object import KernelObject
    from flowstream.kernel.packet_filter import PacketFilter

BUILD = "counter"
PROGRAMS: Final = {Hook.XDP: "count_ipv4", Hook.TC: "tc_counter"}
MAPS = ("pkt_count", "seen_ips", "new_flow_events")
"""Maps of each attachment, in the order in which their descriptors are handed over."""
EVENTS_SIZE = 1 << 20
GRACE_S = 0.1
"""Far longer than a program runs for a packet."""
SOURCE = np.dtype(np.uint32)
"""An IPv4 address as it stands in the packet."""


class CounterMaps(Closing):
    """Maps and program of one interface and direction.

    ``fds`` are descriptors of the program and of the maps in ``MAPS``, which become this
    object's, also when it raises. ``ring`` has announcements as new-flow records, with only
    the IPv4 source set.
    """

    def __init__(
        self, obj: KernelObject, target: Target, max_sources: int, fds: Sequence[int]
    ) -> None:
        self._found_full = self._forgotten = 0
        self._emptying = threading.Lock()
        with owned(fds, 1 + len(MAPS)) as left, ExitStack() as stack:
            enter = stack.enter_context
            hook = target.mode.hook
            spec = obj.program(PROGRAMS[hook])
            self.program = enter(Program.from_fd(left.pop(0), spec, hook))
            self.pkt_count = enter(
                PerCpuArray.from_fd(left.pop(0), obj.map("pkt_count"), np.dtype(np.uint64))
            )
            self.seen_ips = enter(
                HashMap.from_fd(
                    left.pop(0), obj.map("seen_ips"), SOURCE, np.dtype(np.uint64), max_sources
                )
            )
            self.new_flow_events = enter(
                RingBuffer.from_fd(left.pop(0), obj.map("new_flow_events"), SOURCE, EVENTS_SIZE)
            )
            self.ring = RecordRing(
                self.new_flow_events,
                Stream.NEW_FLOWS,
                partial(records.from_sources, key=target.key, sampling=target.sampling),
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
    """A counter program on one interface and direction; ``close`` detaches; harmless twice."""

    def __init__(
        self, probe: CounterProbe, target: Target, maps: CounterMaps, link: Attached
    ) -> None:
        self._probe = probe
        self.maps = maps
        self.interface, self.index, self.key = target.interface, target.if_index, target.key
        self.sampling = target.sampling
        self.program = maps.program
        self.counters = maps.counters
        self.rings = (maps.ring,)
        self._link = link
        self.mode = link.mode

    @property
    def link_fd(self) -> int:
        """Descriptor of its link, for a ``Target`` that takes it over; -1 once detached."""
        return self._link.fd

    @property
    def counters_id(self) -> int:
        """Number of its counters in the kernel."""
        return int(libbpf.object_info(structures.MapInfo, self.maps.pkt_count.fd).id)

    def let_go(self) -> None:
        """Give up the link without waiting: others have it, or it cannot be detached."""
        self._link.let_go()

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read. Harmless twice."""
        self._link.close()

    def unpin(self) -> None:
        """Do nothing: no counters stay when the process ends."""

    def close(self) -> None:
        """Detach and release everything."""
        self._link.let_go()
        self.maps.close()
        self._probe.forget(self)


class CounterProbe(Closing):
    """The counter programs as a probe.

    ``max_flows`` is the number of sources per attachment, ``sampling`` the rate of the
    attachments of ``attach``; a ``Target`` has its own. ``packet_filter``: what packets to
    observe, None for all.
    """

    def __init__(
        self,
        *,
        max_flows: int = 131_072,
        sampling: int = 1,
        packet_filter: PacketFilter | None = None,
    ) -> None:
        features.require_kernel()
        features.raise_memlock()
        self._object = bpf_compile.obtain(BUILD)
        self.max_flows, self.sampling = max_flows, sampling
        sizes = (0, max_flows, EVENTS_SIZE)
        own = dict(zip(MAPS, sizes, strict=True))
        self.creator = Creator(self._object, PROGRAMS, {}, own, packet_filter=packet_filter)
        self.swaps = 0
        """How often a table of sources was full and emptied."""
        self._attached: list[CounterAttachment] = []
        self.rings: tuple[()] = ()
        self.wakeups: None = None

    def adopt(self, target: Target, mode: Mode, fds: Sequence[int]) -> CounterAttachment:
        """Return the attachment that was created; see ``Attachable``."""
        with owned(fds, 2 + len(MAPS)) as left, ExitStack() as stack:
            link = adopted(left.pop(1), target, mode)
            stack.callback(link.close)
            rest, left[:] = list(left), []
            maps = CounterMaps(self._object, target, self.max_flows, rest)
            stack.pop_all()
        made = CounterAttachment(self, target, maps, link)
        self._attached.append(made)
        return made

    def attach(
        self, interface: str, mode: Mode = Mode.AUTO, direction: int = INGRESS
    ) -> CounterAttachment:
        """Load and attach to ``interface`` in this process; KernelError names the remedy."""
        return attach_here(self, Target.named(interface, mode, self.sampling, direction))

    def maps(self, if_index: int, mode: Mode = Mode.AUTO) -> CounterMaps:
        """Load the mode's program for an interface index, without attaching it."""
        target = Target("", if_index, if_index, mode, sampling=self.sampling)
        with ExitStack() as stack:
            program, maps = self.creator.load(target, stack)
            stack.pop_all()
        fds = (program.fd, *(each.fd for each in maps))
        return CounterMaps(self._object, target, self.max_flows, fds)

    def forget(self, attachment: CounterAttachment) -> None:
        """No longer count an attachment that is closed."""
        if attachment in self._attached:
            self._attached.remove(attachment)

    def stop(self) -> None:
        """Do nothing: a program that could not be detached counts on."""

    def table_entries(self) -> int:
        """Sources known, over all interfaces."""
        return sum(each.maps.known() for each in self._attached)

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Empty the tables of sources that were full; no batches: there are no flow records.

        When it ends, no program runs any more that was detached before this call.
        """
        del end_reason
        if any(each.link_fd < 0 for each in self._attached):
            time.sleep(GRACE_S)
        for each in tuple(self._attached):
            self.swaps += each.maps.forget_when_full()
        yield from ()

    def close(self) -> None:
        """Detach from every interface and release everything; harmless twice."""
        for attachment in list(self._attached):
            attachment.close()

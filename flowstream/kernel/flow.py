"""xdp_flow: its maps, one load per attachment, and its records.

`FlowProbe` owns the maps that all attachments share: two flow tables, one of them
active, the set of flows seen, three ring buffers. A `FlowAttachment` has a load of
the program, counters and a link of its own.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.closing import Closing
from flowstream.kernel import clock, features, records
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.creator import Creator
from flowstream.kernel.link import Link, Mode
from flowstream.kernel.maps import ArrayMap, HashMap, MapOfMaps, PerCpuArray
from flowstream.kernel.parts import owned
from flowstream.kernel.program import Program
from flowstream.kernel.rates import Rates
from flowstream.kernel.record_ring import RecordRing
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.kernel.target import Target
from flowstream.layouts import xdp_flow as layout
from flowstream.layouts.constants import NoFlowReason
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from flowstream.accounting.tally import AttachmentKey


NAME = "xdp_flow"
COUNTERS = "counters"
"""The map of each attachment."""
OVERFLOW_SIZE = 16 << 20
ANNOUNCEMENTS_SIZE = 4 << 20
WAKEUPS_SIZE = 1 << 16
SEEN_FACTOR = 2
"""Flows remembered as announced, per flow that the table holds."""
EARLY_SWAP = 0.875
"""Fill of the active table at which the kernel requests an early swap."""


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


class FlowAttachment(Closing):
    """One interface: its program, counters and link. ``close`` detaches; harmless twice."""

    def __init__(
        self, probe: FlowProbe, target: Target, program: Program, counters: PerCpuArray, link: Link
    ) -> None:
        self._probe = probe
        self.interface, self.index, self.key = target.interface, target.if_index, target.key
        self.sampling = target.sampling
        self.program, self._counters, self._link = program, counters, link
        self.mode = link.mode
        self.rings: tuple[()] = ()

    @property
    def link_fd(self) -> int:
        """Descriptor of its link, for a ``Target`` that takes it over; -1 once detached."""
        return self._link.fd

    def counters(self) -> KernelCounts:
        """The program's counts, summed over all possible CPUs."""
        return kernel_counts(self._counters)

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read."""
        self._link.close()

    def close(self) -> None:
        """Detach and release everything."""
        self._probe.forget(self)
        for each in (self._link, self.program, self._counters):
            each.close()


class FlowProbe(Closing):
    """xdp_flow with the maps that its attachments share; drains them into flow records.

    ``max_flows``: capacity of each of the two tables, flows. ``sampling``: one
    packet in so many is read by the attachments of ``attach``; a ``Target`` has its own.
    Records have the rate of their attachment. The methods that drain block (up to
    about 100 ms for the grace period, 0.7 µs per flow): call them from a worker
    thread, one at a time. A context manager; closing twice is harmless.
    """

    def __init__(self, *, max_flows: int = 131_072, sampling: int = 1, build: str = NAME) -> None:
        features.require_kernel()
        features.raise_memlock()
        self._object = bpf_compile.obtain(build)
        self.max_flows, self.sampling = max_flows, sampling
        self._attached: dict[AttachmentKey, FlowAttachment] = {}
        self._rates = Rates(sampling)
        self.swaps = 0
        self._lock = threading.Lock()
        spec = self._object.map
        with ExitStack() as stack:
            enter = stack.enter_context
            self._tables = [
                enter(HashMap(spec("flow_table"), layout.FLOW_KEY, layout.FLOW_VALUE, max_flows))
                for _ in range(2)
            ]
            self._active = 0
            self._slot = enter(MapOfMaps(spec("active_table"), inner_fd=self._tables[0].fd))
            self._slot.put(self._tables[0])
            self._fill = enter(ArrayMap(spec("table_fill"), layout.TABLE_FILL))
            self._reset_fill()
            seen = max(SEEN_FACTOR * max_flows, 1024)
            self._seen = enter(
                HashMap(spec("seen_flows"), layout.FLOW_KEY, np.dtype(np.uint8), seen)
            )
            self._announcements = enter(
                RingBuffer(spec("announcements"), layout.FLOW_RECORD, ANNOUNCEMENTS_SIZE)
            )
            self._overflow = enter(RingBuffer(spec("overflow"), layout.FLOW_RECORD, OVERFLOW_SIZE))
            self.wakeups = enter(RingBuffer(spec("wakeups"), np.dtype(np.uint64), WAKEUPS_SIZE))
            self.announcements = RecordRing(
                self._announcements, Stream.NEW_FLOWS, records.with_unix_times
            )
            self.overflow = RecordRing(self._overflow, Stream.FLOWS, records.with_unix_times)
            self.rings = (self.overflow, self.announcements)
            self.creator = self._creator()
            self._stack = stack.pop_all()

    def _creator(self) -> Creator:
        shared = {
            "table_fill": self._fill,
            "active_table": self._slot,
            "seen_flows": self._seen,
            "announcements": self._announcements,
            "overflow": self._overflow,
            "wakeups": self.wakeups,
        }
        fds = {name: each.fd for name, each in shared.items()}
        return Creator(self._object, NAME, fds, {COUNTERS: 0})

    def load(self, target: Target, stack: ExitStack) -> tuple[Program, PerCpuArray]:
        """Load the program for ``target`` with counters of its own, without attaching it."""
        program, (counters,) = self.creator.load(target, stack)
        spec = self._object.map(COUNTERS)
        return program, PerCpuArray(spec, layout.COUNTERS, fd=counters.fd)

    def adopt(self, target: Target, mode: Mode, fds: Sequence[int]) -> FlowAttachment:
        """Return the attachment that was created; see ``Attachable``."""
        with owned(fds, 3) as left, ExitStack() as stack:
            program = stack.enter_context(Program.from_fd(left.pop(0), self._object.program(NAME)))
            link = stack.enter_context(Link.from_fd(left.pop(0), target.if_index, mode))
            counters = PerCpuArray.from_fd(
                left.pop(0), self._object.map(COUNTERS), layout.COUNTERS
            )
            stack.pop_all()
        self._attached[target.key] = made = FlowAttachment(self, target, program, counters, link)
        self._rates.set(target.key, target.sampling)
        return made

    def attach(self, interface: str, mode: Mode = Mode.AUTO) -> FlowAttachment:
        """Load and attach to ``interface`` in this process; KernelError names the remedy."""
        return attach_here(self, Target.named(interface, mode, self.sampling))

    def forget(self, attachment: FlowAttachment) -> None:
        """No longer know the rate of an attachment that is closed, and was not replaced."""
        if self._attached.get(attachment.key) is attachment:
            del self._attached[attachment.key]
            self._rates.forget(attachment.key)

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Swap the tables and drain the one that was active, as batches of flow records.

        Complete: when it ends, every packet that reached the old table has been
        returned. An iteration that is abandoned leaves the rest to the next one, and one
        that is continued after the next one ends without further records.
        """
        # The rest of an abandoned drain.
        yield from self._drain_inactive(end_reason)
        self._swap()
        yield from self._drain_inactive(end_reason)

    def _swap(self) -> None:
        """Make the other table the active one; returns when no program writes to the old one."""
        with self._lock:
            # Before the swap: inserts from here to it are counted twice at
            # most, while after it those of the grace period would be lost.
            self._reset_fill()
            self._slot.put(self._tables[1 - self._active])
            self._active = 1 - self._active
            self.swaps += 1

    def _drain_inactive(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Drain the table that is not active, until it is empty or becomes active.

        The lock is held within a step only: whoever abandons the iteration, and in
        whatever thread, holds up nobody. A table must not be drained once it is active,
        since programs would still add to the entries that were taken out.
        """
        with self._lock:
            table = self._tables[1 - self._active]
        batches = table.drain()
        while True:
            with self._lock:
                if table is self._tables[self._active]:
                    return
                entries = next(batches, None)
            if entries is None:
                return
            keys, values = entries
            rates = self._rates.of(keys)
            yield records.from_table(keys, values, end_reason, rates, clock.now())

    def drain_active(self) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
        """Keys and values of the active table; only while no program runs."""
        self._reset_fill()
        return self._tables[self._active].drain()

    def forget_announced(self) -> None:
        """Announce every flow again; only while no program runs."""
        for _ in self._seen.drain():
            pass

    def table_entries(self) -> int:
        """Flows in the active table, about."""
        return min(int(self._fill.read()["inserts"][0]), self.max_flows)

    def _reset_fill(self) -> None:
        fill = np.zeros(1, layout.TABLE_FILL)
        fill["limit"] = max(int(self.max_flows * EARLY_SWAP), 1)
        self._fill.write(fill)

    def close(self) -> None:
        """Release everything; harmless twice."""
        self._stack.close()

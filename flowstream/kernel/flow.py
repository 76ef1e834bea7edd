"""The flow programs xdp_flow and tc_flow: their maps, one load per attachment, their records.

`FlowProbe` owns the maps that all attachments share: two flow tables, one of them
active, the set of flows seen, three ring buffers. A `FlowAttachment` has a load of
the program of its hook, counters and a link of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.accounting.attachment_key import INGRESS
from flowstream.closing import Closing
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import features, libbpf, structures
from flowstream.kernel.attached import adopted
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.creator import Creator
from flowstream.kernel.flow_maps import flow_ring, kernel_counts
from flowstream.kernel.generation import counters_pin, link_pin
from flowstream.kernel.link import Hook, Mode
from flowstream.kernel.maps import ArrayMap, HashMap, PerCpuArray
from flowstream.kernel.parts import owned
from flowstream.kernel.program import Program
from flowstream.kernel.rates import Rates
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.kernel.run_pins import RunPins
from flowstream.kernel.tables import SLOT, FlowTables
from flowstream.kernel.target import Target
from flowstream.layouts import flow as layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.kernel.attached import Attached
    from flowstream.kernel.generation import Generation
    from flowstream.kernel.packet_filter import PacketFilter


BUILD = "flow"
PROGRAMS: Final = {Hook.XDP: "xdp_flow", Hook.TC: "tc_flow"}
COUNTERS = "counters"
"""The map of each attachment."""
WAKEUPS_SIZE = 1 << 16
SEEN_FACTOR = 2
"""Flows remembered as announced, per flow that the table holds."""
EARLY_SWAP = 0.875
"""Fill of the active table at which the kernel requests an early swap."""


class FlowAttachment(Closing):
    """One interface and direction: program, counters and link. Closing twice is harmless."""

    def __init__(
        self,
        probe: FlowProbe,
        target: Target,
        program: Program,
        counters: PerCpuArray,
        link: Attached,
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

    @property
    def counters_id(self) -> int:
        """Number of its counters in the kernel: those of an attachment that continues another."""
        return int(libbpf.object_info(structures.MapInfo, self._counters.fd).id)

    def counters(self) -> KernelCounts:
        """The program's counts, summed over all possible CPUs."""
        return kernel_counts(self._counters)

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read. Harmless twice."""
        if self._link.fd < 0:
            return
        if self._probe.pins:
            self._link.detach()
            self._probe.pins.unpin(link_pin(self.key.code))
        self._link.close()

    def let_go(self) -> None:
        """Give up the link without waiting: others have it, or it cannot be detached."""
        self._link.let_go()

    def unpin(self) -> None:
        """Let go of the counters' pin, if it has one: they are noted elsewhere."""
        if self._probe.pins:
            self._probe.pins.unpin(counters_pin(self.key.code))

    def close(self) -> None:
        """Release everything, and detach unless the link is pinned."""
        self._probe.forget(self)
        self._link.let_go()
        self.program.close()
        self._counters.close()


class FlowProbe(Closing):
    """The flow programs with the maps that attachments share; drains them into flow records.

    ``max_flows``: capacity of each of the two tables, flows. ``sampling``: one
    packet in so many is read by the attachments of ``attach``; a ``Target`` has its own.
    ``packet_filter``: what packets to observe, None for all.
    Records have the rate of their attachment; when another attachment takes over its link,
    those of the table in which that happens keep the former rate. The methods that drain
    block (up to about 100 ms for the grace period, 0.7 µs per flow): call them from a worker
    thread, one at a time. With ``pins`` all of it stays when the process ends, attachments
    too, unless they are detached. A context manager; closing twice is harmless.
    """

    def __init__(
        self,
        *,
        max_flows: int = 131_072,
        sampling: int = 1,
        build: str = BUILD,
        pins: Generation | None = None,
        packet_filter: PacketFilter | None = None,
    ) -> None:
        features.require_kernel()
        features.raise_memlock()
        self._object = bpf_compile.obtain(build)
        self.max_flows, self.sampling, self.pins = max_flows, sampling, pins
        self._attached: dict[AttachmentKey, FlowAttachment] = {}
        spec = self._object.map
        with ExitStack() as stack:
            enter = stack.enter_context
            self.tables = enter(FlowTables.create(self._object, max_flows, Rates(sampling)))
            self._fill = enter(ArrayMap(spec("table_fill"), layout.TABLE_FILL))
            self._reset_fill()
            seen = max(SEEN_FACTOR * max_flows, 1024)
            self._seen = enter(
                HashMap(spec("seen_flows"), layout.FLOW_KEY, np.dtype(np.uint8), seen)
            )
            self.announcements = flow_ring(self._object, "announcements")
            enter(self.announcements.raw)
            self.overflow = flow_ring(self._object, "overflow")
            enter(self.overflow.raw)
            self.wakeups = enter(RingBuffer(spec("wakeups"), np.dtype(np.uint64), WAKEUPS_SIZE))
            self.rings = (self.overflow, self.announcements)
            self.creator = self._creator(packet_filter)
            if pins:
                maps = (*self.tables.maps, self.tables.slot, *(ring.raw for ring in self.rings))
                pins.share([each.fd for each in maps])
            self._stack = stack.pop_all()

    def _creator(self, packet_filter: PacketFilter | None) -> Creator:
        shared = {
            "table_fill": self._fill,
            SLOT: self.tables.slot,
            "seen_flows": self._seen,
            "announcements": self.announcements.raw,
            "overflow": self.overflow.raw,
            "wakeups": self.wakeups,
        }
        fds = {name: each.fd for name, each in shared.items()}
        pins = RunPins(self.pins.above, self.pins.epoch) if self.pins else None
        return Creator(self._object, PROGRAMS, fds, {COUNTERS: 0}, pins, packet_filter)

    def load(self, target: Target, stack: ExitStack) -> tuple[Program, PerCpuArray]:
        """Load the program for ``target`` with counters of its own, without attaching it."""
        program, (counters,) = self.creator.load(target, stack)
        spec = self._object.map(COUNTERS)
        return program, PerCpuArray(spec, layout.COUNTERS, fd=counters.fd)

    def adopt(self, target: Target, mode: Mode, fds: Sequence[int]) -> FlowAttachment:
        """Return the attachment that was created; see ``Attachable``."""
        with owned(fds, 3) as left, ExitStack() as stack:
            spec = self._object.program(PROGRAMS[mode.hook])
            program = stack.enter_context(Program.from_fd(left.pop(0), spec, mode.hook))
            link = adopted(left.pop(0), target, mode)
            stack.callback(link.close)
            counters = PerCpuArray.from_fd(
                left.pop(0), self._object.map(COUNTERS), layout.COUNTERS
            )
            stack.pop_all()
        rates = self.tables.rates
        label = rates.change if target.key in self._attached else rates.set
        label(target.key, target.sampling)
        self._attached[target.key] = made = FlowAttachment(self, target, program, counters, link)
        return made

    def attach(
        self, interface: str, mode: Mode = Mode.AUTO, direction: int = INGRESS
    ) -> FlowAttachment:
        """Load and attach to ``interface`` in this process; KernelError names the remedy."""
        return attach_here(self, Target.named(interface, mode, self.sampling, direction))

    def forget(self, attachment: FlowAttachment) -> None:
        """No longer know the rate of an attachment that is closed, and was not replaced."""
        if self._attached.get(attachment.key) is attachment:
            del self._attached[attachment.key]
            self.tables.rates.forget(attachment.key)

    def drain(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Swap the tables and drain the one that was active, as batches of flow records.

        Complete: when it ends, every packet that reached the old table has been
        returned. An iteration that is abandoned leaves the rest to the next one, and one
        that is continued after the next one ends without further records.
        """
        # The rest of an abandoned drain.
        yield from self.tables.drain_inactive(end_reason)
        # Before the swap: inserts from here to it are counted twice at
        # most, while after it those of the grace period would be lost.
        self._reset_fill()
        self.tables.swap()
        yield from self.tables.drain_inactive(end_reason)

    def drain_active(self) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
        """Keys and values of the active table; only while no program runs."""
        self._reset_fill()
        return self.tables.active.drain()

    def forget_announced(self) -> None:
        """Announce every flow again; only while no program runs."""
        for _ in self._seen.drain():
            pass

    @property
    def swaps(self) -> int:
        """How often the tables were swapped."""
        return self.tables.swaps

    def stop(self) -> None:
        """Let programs that could not be detached count nothing any more; blocks as a swap."""
        self.tables.stop()

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

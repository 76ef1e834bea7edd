"""xdp_flow over the packets of a capture: the same program, without an interface.

Packets go in one by one by BPF_PROG_TEST_RUN, with their time, length and interface as XDP
metadata (the build with CAPTURE, bpf/flow.c). Nothing else runs the program
meanwhile, so the table is drained without a swap.
"""

from __future__ import annotations

import ctypes
import struct
from contextlib import ExitStack
from ctypes import addressof, c_void_p
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from flowstream.accounting.amounts import Amount, KernelCounts
from flowstream.accounting.snapshot import Moment
from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import libbpf, records, structures
from flowstream.kernel.flow import EARLY_SWAP, FlowProbe
from flowstream.kernel.flow_maps import kernel_counts
from flowstream.kernel.target import Target
from flowstream.layouts.flow import CAPTURE_META, FLOW_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.kernel.ringbuf import RingBuffer

Packet = tuple[int, int, memoryview]
"""Unix time in ns, length on the wire in octets, and the octets that were captured."""

BUILD = "flow_capture"
MIN_PACKET = 14
"""BPF_PROG_TEST_RUN refuses packets shorter than an Ethernet header."""
MAX_PACKET = 65_535
"""Octets of a packet that are handed over; the kernel's own limit is a little higher."""

# time_ns, length and if_index of CAPTURE_META.
_META = struct.Struct("=QII")
# Places among the 32-bit numbers of struct xdp_md and of the options.
_DATA_END = 1
_SIZE_IN = structures.TestRunOpts.data_size_in.offset // 4
_SIZE_OUT = structures.TestRunOpts.data_size_out.offset // 4


class PacketFeed(Closing):
    """Runs packets through xdp_flow and returns the records that it produces.

    Packets belong to one interface at a time, number 1 before any ``begin``. Only the
    constructor needs privileges. ``packet_filter``: what packets to observe, None for all.
    A context manager; closing twice is harmless.
    """

    def __init__(
        self,
        *,
        max_flows: int = 131_072,
        sampling: int = 1,
        packet_filter: PacketFilter | None = None,
    ) -> None:
        with ExitStack() as stack:
            self._probe = stack.enter_context(
                FlowProbe(
                    max_flows=max_flows,
                    sampling=sampling,
                    build=BUILD,
                    packet_filter=packet_filter,
                )
            )
            self.program, self._counters = self._probe.load(
                Target("", 0, 0, sampling=sampling), stack
            )
            self._stack = stack.pop_all()
        self._if_index = 1
        self._before = kernel_counts(self._counters)
        self.latest_ns = 0
        """Latest time of the interface's packets that ran."""
        self.short_packets = 0
        self.short_l2_bytes = 0
        self._buffer = ctypes.create_string_buffer(CAPTURE_META.itemsize + MAX_PACKET)
        # struct xdp_md: data (the metadata's length), data_end, data_meta and three more.
        self._context = (ctypes.c_uint32 * 6)(CAPTURE_META.itemsize)
        self._options = structures.TestRunOpts(
            data_in=ctypes.cast(self._buffer, c_void_p),
            ctx_in=ctypes.cast(self._context, c_void_p),
            ctx_size_in=ctypes.sizeof(self._context),
            repeat=1,
        )

    def begin(self, if_index: int) -> None:
        """Run the packets of another interface; counters and announcements begin anew.

        Everything that the earlier interface's packets left must have been drained.
        """
        self._if_index = if_index
        self._before = kernel_counts(self._counters)
        self._probe.forget_announced()
        self.latest_ns = self.short_packets = self.short_l2_bytes = 0

    def run(self, packets: Iterable[Packet], begin_ns: int, end_ns: int) -> Packet | None:
        """Run packets up to the first one before ``begin_ns`` or not before ``end_ns``; return it.

        Raises KernelError when the kernel refuses a packet. ``latest_ns`` is right
        also after an exception, of ``packets`` too.
        """
        call, fd, options = _test_run(), self.program.fd, self._options
        reference, meta_size = addressof(options), CAPTURE_META.itemsize
        # Through memoryviews: half the time of setting ctypes fields, packet by packet.
        buffer = memoryview(self._buffer).cast("B")
        write_meta, target = _META.pack_into, buffer[meta_size:]
        context, numbers = _numbers(self._context), _numbers(options)
        latest_ns, if_index = self.latest_ns, self._if_index
        try:
            for time_ns, length, octets in packets:
                if time_ns >= end_ns or time_ns < begin_ns:
                    return time_ns, length, octets
                if time_ns > latest_ns:  # noqa: PLR1730 - a call of max() takes a tenth of all this
                    latest_ns = time_ns
                size = len(octets)
                if size > MAX_PACKET:
                    octets, size = octets[:MAX_PACKET], MAX_PACKET  # noqa: PLW2901 - the rest is not read
                if size < MIN_PACKET:
                    # The kernel refuses to run a program on less than an Ethernet header.
                    self.short_packets += 1
                    self.short_l2_bytes += length
                    continue
                target[:size] = octets
                write_meta(buffer, 0, time_ns, length, if_index)
                context[_DATA_END] = numbers[_SIZE_IN] = meta_size + size
                numbers[_SIZE_OUT] = 0  # the last call left its packet's size here
                if call(fd, reference) < 0:
                    raise KernelError(
                        f"the kernel refuses to run the program on a packet of {size} octets"
                    )
        finally:
            self.latest_ns = latest_ns
        return None

    def nearly_full(self) -> bool:
        """Whether the table should be drained before the interval ends."""
        return self._probe.table_entries() >= self._probe.max_flows * EARLY_SWAP

    def table_entries(self) -> int:
        """Flows in the table."""
        return self._probe.table_entries()

    def flows(self, end_reason: int, now_ns: int) -> NDArray[np.void]:
        """Drain the table and the overflow ring into flow records.

        Records are ordered by time and key: the table's own order differs from run to run.
        """
        now = Moment(now_ns, now_ns)
        drained = [
            records.from_table(keys, values, end_reason, self._probe.sampling, now)
            for keys, values in self._probe.drain_active()
        ]
        return _ordered([*drained, *self._read(self._probe.overflow.raw, now)])

    def announcements(self, now_ns: int) -> NDArray[np.void]:
        """New-flow records since the previous call."""
        now = Moment(now_ns, now_ns)
        return _ordered(list(self._read(self._probe.announcements.raw, now)))

    def counters(self) -> KernelCounts:
        """The program's counts; packets without a whole Ethernet header are malformed."""
        counts = kernel_counts(self._counters).minus(self._before)
        seen, malformed = counts.seen, counts.no_flow["malformed"]
        return KernelCounts(
            seen=self._with_short(seen),
            no_flow=counts.no_flow | {"malformed": self._with_short(malformed)},
            losses=counts.losses,
        )

    def _with_short(self, amount: Amount) -> Amount:
        return Amount(amount.packets + self.short_packets, amount.l2_bytes + self.short_l2_bytes)

    def _read(self, ring: RingBuffer, now: Moment) -> Iterator[NDArray[np.void]]:
        while len(batch := ring.read(8192)):
            yield records.with_unix_times(batch, now)

    def close(self) -> None:
        """Release everything in the kernel; harmless twice."""
        self._stack.close()


@cache
def _test_run() -> Callable[[int, int], int]:
    """Libbpf's call: takes descriptor and address of the options, returns below 0 on failure.

    It keeps the GIL: a call takes 2 µs, and releasing the GIL for each packet would
    cost more than other threads could gain.
    """
    libbpf.library()  # raises when libbpf is missing
    run = ctypes.PyDLL(libbpf.SONAME).bpf_prog_test_run_opts
    run.argtypes = [ctypes.c_int, c_void_p]
    return run


def _numbers(memory: ctypes.Array[ctypes.c_uint32] | structures.TestRunOpts) -> memoryview:
    return memoryview(memory).cast("B").cast("I")


def _ordered(batches: list[NDArray[np.void]]) -> NDArray[np.void]:
    """One array of all records by start time, then by their octets."""
    if not batches:
        return np.empty(0, FLOW_RECORD)
    # dtype given: concatenate would turn the fields to native byte order.
    records_ = np.concatenate(batches, dtype=FLOW_RECORD)
    octets = records_.view((np.bytes_, FLOW_RECORD.itemsize))
    return records_[np.lexsort((octets, records_["time_flow_start_ns"].astype(np.uint64)))]

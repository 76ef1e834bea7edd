"""Kernel programs without an interface: packets go in by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from flowstream.closing import Closing
from flowstream.kernel import libbpf, structures
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from support.bytecode import returning

if TYPE_CHECKING:
    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.kernel.program import Program

XDP_PASS = 2
TCX_NEXT = 0xFFFFFFFF
PASSING = returning(XDP_PASS)
NEXT = returning(-1)
"""Returns TCX_NEXT."""


class PacketRun(NamedTuple):
    """The program's verdict and the packet after it."""

    verdict: int
    packet: bytes


class SocketBuffer(ctypes.Structure):
    """struct __sk_buff (linux/bpf.h): what a packet is at the TC hook, beside its octets.

    BPF_PROG_TEST_RUN takes ``wire_len``, ``gso_segs``, ``gso_size``, ``mark`` and some more;
    everything else has to be 0.
    """

    _fields_: ClassVar[Any] = [
        ("fields", ctypes.c_uint32 * 36),
        ("flow_keys", ctypes.c_uint64),
        ("tstamp", ctypes.c_uint64),
        ("wire_len", ctypes.c_uint32),
        ("gso_segs", ctypes.c_uint32),
        ("sk", ctypes.c_uint64),
        ("gso_size", ctypes.c_uint32),
        ("others", ctypes.c_uint32),
        ("hwtstamp", ctypes.c_uint64),
    ]


def run_packet(
    program: Program, packet: bytes, repeat: int = 1, skb: SocketBuffer | None = None
) -> PacketRun:
    """Run ``program`` on ``packet`` (at least 14 octets) ``repeat`` times, in the kernel.

    ``skb``: what a program at the TC hook finds beside the octets.
    """
    out = ctypes.create_string_buffer(len(packet) + 256)
    options = structures.TestRunOpts(
        data_in=ctypes.cast(ctypes.c_char_p(packet), c_void_p),
        data_size_in=len(packet),
        data_out=ctypes.cast(out, c_void_p),
        repeat=1,
    )
    if skb is not None:
        options.ctx_in = ctypes.cast(byref(skb), c_void_p)
        options.ctx_size_in = ctypes.sizeof(skb)
    run, reference = libbpf.library().bpf_prog_test_run_opts, byref(options)
    # A call that repeats by itself ends early on any pending signal, with EINTR.
    for _ in range(repeat):
        options.data_size_out = len(out)
        done = run(program.fd, reference)
        libbpf.check(done, f"running program {program.name} on a packet of {len(packet)} octets")
    return PacketRun(options.retval, out.raw[: options.data_size_out])


class FlowBench(Closing):
    """A flow program without an interface; its records carry interface index ``if_index``.

    The mode tells whether it is the one for XDP or the one for the TC hook.
    """

    def __init__(
        self,
        *,
        max_flows: int = 131_072,
        sampling: int = 1,
        if_index: int = 1,
        raw: bool = False,
        mode: Mode = Mode.AUTO,
        direction: int = 0,
        packet_filter: PacketFilter | None = None,
    ) -> None:
        self.probe = FlowProbe(max_flows=max_flows, sampling=sampling, packet_filter=packet_filter)
        self._stack = ExitStack()
        target = Target(
            "", if_index, if_index, mode, sampling=sampling, direction=direction, raw=raw
        )
        self.program, self._counters = self.probe.load(target, self._stack)

    def run(self, packet: bytes, repeat: int = 1, skb: SocketBuffer | None = None) -> PacketRun:
        """Hand ``packet`` to the program ``repeat`` times."""
        return run_packet(self.program, packet, repeat, skb)

    def counters(self) -> dict[str, Any]:
        """Fields of struct counters (bpf/flow.c), summed over all possible CPUs."""
        total = self._counters.total()
        return {name: total[name] for name in total if not name.startswith("clock_")}

    def close(self) -> None:
        """Release everything; harmless twice."""
        self._stack.close()
        self.probe.close()


def take_off(program_id: int, how: str) -> None:
    """Take a program off its interface by way of its link, as another process would.

    ``how``: "detached" (BPF_LINK_DETACH) or "replaced", by a program that passes every packet.
    """
    fd = _link_of(program_id)
    try:
        if how == "detached":
            libbpf.check(libbpf.library().bpf_link_detach(fd), "detaching a link")
            return
        passing = _passing(libbpf.described(structures.LinkInfo, fd).type)
        try:
            libbpf.check(libbpf.library().bpf_link_update(fd, passing, None), "updating a link")
        finally:
            os.close(passing)
    finally:
        os.close(fd)


def _passing(link_type: int) -> int:
    """Descriptor of a program that passes every packet, for a kind of link."""
    if link_type == libbpf.BPF_LINK_TYPE_TCX:
        return libbpf.prog_load("passing", NEXT, kind=libbpf.BPF_PROG_TYPE_SCHED_CLS)
    return libbpf.prog_load("passing", PASSING, libbpf.BPF_F_XDP_HAS_FRAGS)


def _link_of(program_id: int) -> int:
    """Descriptor of the link that has the program."""
    library, number = libbpf.library(), ctypes.c_uint32(0)
    while library.bpf_link_get_next_id(number, byref(number)) == 0:
        fd = libbpf.check(library.bpf_link_get_fd_by_id(number), "opening a link")
        if libbpf.described(structures.LinkInfo, fd).prog_id == program_id:
            return int(fd)
        os.close(fd)
    raise LookupError(f"no link has program {program_id}")

"""Kernel programs without an interface: packets go in by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

from flowstream.closing import Closing
from flowstream.kernel import libbpf, structures
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from flowstream.kernel.program import Program

XDP_PASS = 2
PASSING = bytes([0xB7, 0, 0, 0, XDP_PASS, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])
"""r0 = XDP_PASS; exit"""


class PacketRun(NamedTuple):
    """The program's verdict and the packet after it."""

    verdict: int
    packet: bytes


def run_packet(program: Program, packet: bytes, repeat: int = 1) -> PacketRun:
    """Run ``program`` on ``packet`` (at least 14 octets) ``repeat`` times, in the kernel."""
    out = ctypes.create_string_buffer(len(packet) + 256)
    options = structures.TestRunOpts(
        data_in=ctypes.cast(ctypes.c_char_p(packet), c_void_p),
        data_size_in=len(packet),
        data_out=ctypes.cast(out, c_void_p),
        repeat=1,
    )
    run, reference = libbpf.library().bpf_prog_test_run_opts, byref(options)
    # A call that repeats by itself ends early on any pending signal, with EINTR.
    for _ in range(repeat):
        options.data_size_out = len(out)
        done = run(program.fd, reference)
        libbpf.check(done, f"running program {program.name} on a packet of {len(packet)} octets")
    return PacketRun(options.retval, out.raw[: options.data_size_out])


class FlowBench(Closing):
    """xdp_flow without an interface; its records carry interface index ``if_index``."""

    def __init__(
        self,
        *,
        max_flows: int = 131_072,
        sampling: int = 1,
        if_index: int = 1,
        raw: bool = False,
    ) -> None:
        self.probe = FlowProbe(max_flows=max_flows, sampling=sampling)
        self._stack = ExitStack()
        target = Target("", if_index, if_index, sampling=sampling, raw=raw)
        self.program, self._counters = self.probe.load(target, self._stack)

    def run(self, packet: bytes, repeat: int = 1) -> PacketRun:
        """Hand ``packet`` to the program ``repeat`` times."""
        return run_packet(self.program, packet, repeat)

    def counters(self) -> dict[str, Any]:
        """Fields of struct counters (bpf/flow.c), summed over all possible CPUs."""
        total = self._counters.total()
        return {name: total[name] for name in total if not name.startswith("clock_")}

    def close(self) -> None:
        """Release everything; harmless twice."""
        self._stack.close()
        self.probe.close()


def take_off(program_id: int, how: str) -> None:
    """Take the XDP program off its interface by way of its link, as another process would.

    ``how``: "detached" (BPF_LINK_DETACH) or "replaced", by a program that passes every packet.
    """
    fd = _link_of(program_id)
    try:
        if how == "detached":
            libbpf.check(libbpf.library().bpf_link_detach(fd), "detaching a link")
            return
        passing = libbpf.prog_load("passing", PASSING, libbpf.BPF_F_XDP_HAS_FRAGS)
        try:
            libbpf.check(libbpf.library().bpf_link_update(fd, passing, None), "updating a link")
        finally:
            os.close(passing)
    finally:
        os.close(fd)


def _link_of(program_id: int) -> int:
    """Descriptor of the link that has the program."""
    library, number = libbpf.library(), ctypes.c_uint32(0)
    while library.bpf_link_get_next_id(number, byref(number)) == 0:
        fd = libbpf.check(library.bpf_link_get_fd_by_id(number), "opening a link")
        if libbpf.described(structures.LinkInfo, fd).prog_id == program_id:
            return int(fd)
        os.close(fd)
    raise LookupError(f"no link has program {program_id}")

"""Packets for BPF_PROG_TEST_RUN, and the functions that run programs on them."""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Final, Self

from packets.build import tcp, udp, v4, v6
from support.programs import NEXT, PASSING

from flowstream.kernel import libbpf, structures
from flowstream.kernel.link import Hook

if TYPE_CHECKING:
    from types import TracebackType

V4_UDP: Final = v4(17, udp())
V4_TCP: Final = v4(6, tcp())
V6_TCP: Final = v6(6, tcp())

_SOURCE_AT: Final = 14 + 12
"""Offset of the IPv4 source address in an untagged packet."""
_EMPTY: Final = {
    Hook.XDP: (PASSING, libbpf.BPF_PROG_TYPE_XDP),
    Hook.TC: (NEXT, libbpf.BPF_PROG_TYPE_SCHED_CLS),
}


class PassProgram:
    """The program of a hook that does nothing: two instructions. A context manager."""

    def __init__(self, hook: Hook = Hook.XDP) -> None:
        code, kind = _EMPTY[hook]
        self.fd = libbpf.prog_load("bench_pass", code, kind=kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        os.close(self.fd)


def run_same(program_fd: int, packet: bytes, repeat: int) -> float:
    """Ns per run, by the kernel's clock, of one packet that is run ``repeat`` times."""
    options = structures.TestRunOpts(
        data_in=ctypes.cast(ctypes.c_char_p(packet), c_void_p),
        data_size_in=len(packet),
        repeat=repeat,
    )
    done = libbpf.library().bpf_prog_test_run_opts(program_fd, byref(options))
    libbpf.check(done, "running a program on a packet")
    return float(options.duration)


def run_distinct(program_fd: int, first: int, count: int, packet: bytes = V4_UDP) -> float:
    """Ns per packet of ``count`` IPv4 packets with source addresses from ``first`` on.

    Each packet is a system call. The kernel's clock covers the program and not the
    call, but includes reading the clock and cold caches: compare only with another
    program's value.
    """
    data = ctypes.create_string_buffer(packet, len(packet))
    options = structures.TestRunOpts(
        data_in=ctypes.cast(data, c_void_p), data_size_in=len(packet), repeat=1
    )
    run, reference = libbpf.library().bpf_prog_test_run_opts, byref(options)
    total = 0
    for source in range(first, first + count):
        struct.pack_into("!I", data, _SOURCE_AT, 0x0A000000 + source)
        libbpf.check(run(program_fd, reference), "running a program on a packet")
        total += options.duration
    return total / count

"""Another XDP program than flowstream's: it drops long packets, passes others, and counts both."""

from __future__ import annotations

import os
from ctypes import byref, c_uint32, c_uint64
from typing import Final, NamedTuple

from flowstream.closing import Closing
from flowstream.kernel import libbpf
from flowstream.kernel.link import Link, Mode, program_in_force
from support.bytecode import instruction

NAME: Final = "balancer"
LONGEST: Final = 100
"""Octets of a packet that it passes."""
_PASSED, _DROPPED = 0, 1
_XDP_DROP, _XDP_PASS = 1, 2
_LOOKUP: Final = 1  # BPF_FUNC_map_lookup_elem


class Verdicts(NamedTuple):
    """How many packets the program has passed and dropped."""

    passed: int
    dropped: int


class OtherProgram(Closing):
    """The program, attached to an interface of the calling thread's namespace until ``close``."""

    def __init__(self, if_index: int, mode: Mode = Mode.NATIVE) -> None:
        library = libbpf.library()
        self._map = libbpf.check(
            library.bpf_map_create(libbpf.MAP_TYPE_ARRAY, b"verdicts", 4, 8, 2, None), "a map"
        )
        self._program = libbpf.prog_load(NAME, _code(self._map), libbpf.BPF_F_XDP_HAS_FRAGS)
        self.id = libbpf.prog_info(self._program)[0]
        self._link = Link(self._program, if_index, mode)

    @property
    def in_force(self) -> bool:
        """Whether it runs on its interface."""
        return program_in_force(self._link.fd) == self.id

    def verdicts(self) -> Verdicts:
        """Return what it has counted."""
        return Verdicts(self._count(_PASSED), self._count(_DROPPED))

    def _count(self, index: int) -> int:
        key, value = c_uint32(index), c_uint64()
        found = libbpf.library().bpf_map_lookup_elem(self._map, byref(key), byref(value))
        libbpf.check(found, "reading verdicts")
        return value.value

    def close(self) -> None:
        """Detach it; harmless twice."""
        self._link.close()
        for fd in (self._program, self._map):
            if fd >= 0:
                os.close(fd)
        self._program = self._map = -1


def _code(map_fd: int) -> bytes:
    """Return the program: r7 is the verdict, the word at r10 - 4 its key in the map."""
    return b"".join(
        instruction(*each)
        for each in (
            (0xB7, 7, 0, 0, _XDP_PASS),  # r7 = XDP_PASS
            (0x62, 10, 0, -4, _PASSED),
            (0x61, 2, 1, 0, 0),  # r2 = data
            (0x61, 3, 1, 4, 0),  # r3 = data_end
            (0x07, 2, 0, 0, LONGEST + 1),  # r2 += LONGEST + 1
            (0x2D, 2, 3, 2, 0),  # if r2 > r3 goto the count
            (0xB7, 7, 0, 0, _XDP_DROP),
            (0x62, 10, 0, -4, _DROPPED),
            (0xBF, 2, 10, 0, 0),  # the count: r2 = r10
            (0x07, 2, 0, 0, -4),
            (0x18, 1, 1, 0, map_fd),  # r1 = the map, BPF_PSEUDO_MAP_FD
            (0x00, 0, 0, 0, 0),
            (0x85, 0, 0, 0, _LOOKUP),
            (0x15, 0, 0, 2, 0),  # if r0 == 0 goto the end
            (0xB7, 1, 0, 0, 1),
            (0xDB, 0, 1, 0, 0),  # lock *(u64 *)r0 += r1
            (0xBF, 0, 7, 0, 0),  # the end: r0 = r7
            (0x95, 0, 0, 0, 0),
        )
    )

"""Numbers that a program of a test counts in the kernel."""

from __future__ import annotations

from ctypes import byref, c_uint32, c_uint64

from flowstream.kernel import libbpf
from flowstream.kernel.map import Map
from flowstream.kernel.object import MapSpec
from support.bytecode import instruction


class Counts(Map):
    """Numbers of 64 bits, which begin at 0; ``of`` reads one by its index."""

    def __init__(self, numbers: int) -> None:
        super().__init__(MapSpec("counts", libbpf.MAP_TYPE_ARRAY, 4, 8, numbers, 0))

    def of(self, index: int) -> int:
        """The number at an index."""
        key, value = c_uint32(index), c_uint64()
        found = libbpf.library().bpf_map_lookup_elem(self.fd, byref(key), byref(value))
        libbpf.check(found, "reading a count")
        return value.value

    @property
    def counting(self) -> bytes:
        """Code that adds 1 to the number whose index is the word at r10 - 4."""
        return b"".join(
            (
                instruction(0xBF, 2, 10),  # r2 = r10
                instruction(0x07, 2, number=-4),  # r2 += -4
                instruction(0x18, 1, 1, number=self.fd),  # r1 = map, BPF_PSEUDO_MAP_FD
                instruction(0),
                instruction(0x85, number=1),  # r0 = bpf_map_lookup_elem
                instruction(0x15, 0, 0, 2),  # if r0 == 0 goto the end
                instruction(0xB7, 1, number=1),  # r1 = 1
                instruction(0xDB, 0, 1),  # lock *(u64 *)r0 += r1
            )
        )

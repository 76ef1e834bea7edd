"""Another XDP program than flowstream's: it drops long packets, passes others, and counts both."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from flowstream.closing import Closing
from flowstream.kernel import libbpf
from flowstream.kernel.link import Link, Mode, program_in_force
from support.bytecode import instruction
from support.counts import Counts

NAME: Final = "balancer"
LONGEST: Final = 100
"""Octets of a packet that it passes."""
_PASSED, _DROPPED = 0, 1
_XDP_DROP, _XDP_PASS = 1, 2


class Verdicts(NamedTuple):
    """How many packets the program has passed and dropped."""

    passed: int
    dropped: int


class OtherProgram(Closing):
    """The program, attached to an interface of the calling thread's namespace until ``close``."""

    def __init__(self, if_index: int, mode: Mode = Mode.NATIVE) -> None:
        self._counts = Counts(2)
        code = _code(self._counts.counting)
        self._program = libbpf.prog_load(NAME, code, libbpf.BPF_F_XDP_HAS_FRAGS)
        self.id = libbpf.prog_info(self._program)[0]
        self._link = Link(self._program, if_index, mode)

    @property
    def in_force(self) -> bool:
        """Whether it runs on its interface."""
        return program_in_force(self._link.fd) == self.id

    def verdicts(self) -> Verdicts:
        """Return what it has counted."""
        return Verdicts(self._counts.of(_PASSED), self._counts.of(_DROPPED))

    def close(self) -> None:
        """Detach it; harmless twice."""
        self._link.close()
        if self._program >= 0:
            os.close(self._program)
            self._program = -1
        self._counts.close()


def _code(counting: bytes) -> bytes:
    """Return the program: r7 is the verdict, the word at r10 - 4 the index of its count."""
    return b"".join(
        (
            instruction(0xB7, 7, number=_XDP_PASS),  # r7 = XDP_PASS
            instruction(0x62, 10, 0, -4, _PASSED),
            instruction(0x61, 2, 1),  # r2 = data
            instruction(0x61, 3, 1, 4),  # r3 = data_end
            instruction(0x07, 2, number=LONGEST + 1),  # r2 += LONGEST + 1
            instruction(0x2D, 2, 3, 2),  # if r2 > r3 goto the count
            instruction(0xB7, 7, number=_XDP_DROP),
            instruction(0x62, 10, 0, -4, _DROPPED),
            counting,
            instruction(0xBF, 0, 7),  # r0 = r7
            instruction(0x95),
        )
    )

"""Writes eBPF with labels: what the translation of filters needs of it.

Source: Documentation/bpf/standardization/instruction-set.rst of the kernel.
"""

from __future__ import annotations

import struct
import sys
from typing import Final, NamedTuple

from flowstream.errors import UsageError

# Classes, operations and operands: linux/bpf.h, linux/bpf_common.h.
LDX, ST, STX, ALU32, JMP, JMP32, ALU64 = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
MEM: Final = 0x60
ADD, SUB, OR, AND, LSH, RSH, XOR, MOV, END = (
    0x00, 0x10, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xD0
)  # fmt: skip
JA, JEQ, JGT, JNE, CALL, EXIT, JLT, JLE = 0x00, 0x10, 0x20, 0x50, 0x80, 0x90, 0xA0, 0xB0
FROM_REGISTER: Final = 0x08
TO_BE: Final = 0x08
WIDTHS: Final = {1: 0x10, 2: 0x08, 4: 0x00}
"""Bits of the code for a width in octets."""
FRAME: Final = 10
"""The register that points behind the stack frame."""

SIZE: Final = 8
"""Octets of an instruction."""
_LAYOUT: Final = struct.Struct("=BBhi")
_OWN_FUNCTION: Final = 1
"""BPF_PSEUDO_CALL."""
_FARTHEST: Final = 0x7FFF
"""Instructions that a jump reaches."""


class Register(int):
    """An operand that is a register, not a number."""


class _Line(NamedTuple):
    code: int
    dst: int
    src: int
    offset: int
    number: int
    label: object


class Assembler:
    """A function in the making. Labels are any hashable values, each set once."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[object, int] = {}
        self._used: set[object] = set()

    def alu32(self, operation: int, dst: int, operand: int) -> None:
        """Change the lower half of a register; the upper becomes 0."""
        self._operate(ALU32 | operation, dst, operand)

    def alu64(self, operation: int, dst: int, operand: int) -> None:
        """Change a whole register; ``operand`` may be a number below 2³¹."""
        self._operate(ALU64 | operation, dst, operand)

    def load(self, width: int, dst: int, base: int, offset: int) -> None:
        """Load 1, 2 or 4 octets, in the packet's order where they are a number."""
        self._add(LDX | MEM | WIDTHS[width], dst, base, offset)

    def big_endian(self, width: int, dst: int) -> None:
        """Read 2 or 4 octets of a register as a number in network order."""
        self._add(ALU32 | END | TO_BE, dst, number=8 * width)

    def store(self, base: int, offset: int, operand: int) -> None:
        """Store 4 octets."""
        if isinstance(operand, Register):
            self._add(STX | MEM, base, operand, offset)
        else:
            self._add(ST | MEM, base, 0, offset, operand)

    def jump(self, label: object) -> None:
        """Go on at a label."""
        self._add(JMP | JA, label=label)

    def branch32(self, comparison: int, register: int, operand: int, label: object) -> None:
        """Go on at a label if the lower half of a register compares so, unsigned."""
        self._operate(JMP32 | comparison, register, operand, label)

    def branch64(self, comparison: int, register: int, operand: int, label: object) -> None:
        """Go on at a label if a register compares so, unsigned."""
        self._operate(JMP | comparison, register, operand, label)

    def call(self, distance: int) -> None:
        """Call the function that begins ``distance`` instructions behind the next one."""
        self._add(JMP | CALL, src=_OWN_FUNCTION, number=distance)

    def exit(self) -> None:
        """Return r0."""
        self._add(JMP | EXIT)

    def label(self, label: object) -> None:
        """Set a label to the next instruction."""
        self._labels[label] = len(self._lines)

    def uses(self, label: object) -> bool:
        """Whether anything jumps to a label so far."""
        return label in self._used

    def _operate(self, code: int, dst: int, operand: int, label: object = None) -> None:
        if isinstance(operand, Register):
            self._add(code | FROM_REGISTER, dst, operand, label=label)
        else:
            self._add(code, dst, number=operand, label=label)

    def _add(
        self,
        code: int,
        dst: int = 0,
        src: int = 0,
        offset: int = 0,
        number: int = 0,
        label: object = None,
    ) -> None:
        if label is not None:
            self._used.add(label)
        self._lines.append(_Line(code, dst, src, offset, number, label))

    def octets(self) -> bytes:
        """Return the function; UsageError when it is too long for a jump."""
        return b"".join(self._encoded(position, line) for position, line in enumerate(self._lines))

    def _encoded(self, position: int, line: _Line) -> bytes:
        offset = line.offset
        if line.label is not None:
            offset = self._labels[line.label] - position - 1
            if offset > _FARTHEST:
                raise UsageError("filter: it is too long for this program; shorten it")
        registers = (line.dst, line.src) if sys.byteorder == "little" else (line.src, line.dst)
        number = line.number - (1 << 32) if line.number >= 1 << 31 else line.number
        return _LAYOUT.pack(line.code, registers[1] << 4 | registers[0], offset, number)

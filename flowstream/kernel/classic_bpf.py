"""Classic BPF, the instructions of packet filters: decoded and validated.

A program has an accumulator A, an index register X and sixteen words of memory M, all of
32 bits and 0 at the start. It returns 0 to reject a packet. A load that ends behind the
packet rejects it, as does a division by zero. Source: bpf(4), libpcap's bpf_filter.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE: Final = 8
"""Octets of an instruction, struct bpf_insn in pcap/bpf.h."""
MOST_INSTRUCTIONS: Final = 1 << 15
"""Far more than the kernel takes of classic BPF, 4,096: addresses need one or two each."""
WORDS: Final = 16
"""Words of M."""

# pcap/bpf.h: class, size or operation, mode or operand.
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
W, H, B = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
ADD, SUB, MUL, DIV, OR, AND = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
LSH, RSH, NEG, MOD, XOR = 0x60, 0x70, 0x80, 0x90, 0xA0
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
K, X, A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80

ALU_OPERATIONS: Final = (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, MOD, XOR)
_BRANCHES: Final = frozenset(
    JMP | op | operand for op in (JEQ, JGT, JGE, JSET) for operand in (K, X)
)
_KNOWN: Final = frozenset(
    (
        *(LD | mode | size for mode in (ABS, IND) for size in (W, H, B)),
        *(load | mode for load in (LD, LDX) for mode in (IMM, MEM, LEN)),
        *(LDX | MSH | B, ST, STX, ALU | NEG, JMP | JA, RET | K, RET | A, MISC | TAX, MISC | TXA),
        *(ALU | op | operand for op in ALU_OPERATIONS for operand in (K, X)),
        *_BRANCHES,
    )
)
MEMORY_LOADS: Final = (LD | MEM, LDX | MEM)
_RETURNS: Final = frozenset((RET | K, RET | A))
_OPERANDS: Final = {
    **dict.fromkeys((*MEMORY_LOADS, ST, STX), range(WORDS)),
    **dict.fromkeys((ALU | LSH | K, ALU | RSH | K), range(32)),
    **dict.fromkeys((ALU | DIV | K, ALU | MOD | K), range(1, 1 << 32)),
}
"""Operands that an instruction may have, if not all."""


class Instruction(NamedTuple):
    """One instruction; ``jt`` and ``jf`` are distances of a branch, ``k`` is an operand."""

    code: int
    jt: int
    jf: int
    k: int

    @property
    def kind(self) -> int:
        """Its class (BPF_CLASS): LD and so on."""
        return self.code & 0x07

    @property
    def mode(self) -> int:
        """Of a load, where from (BPF_MODE): ABS and so on."""
        return self.code & 0xE0

    @property
    def size(self) -> int:
        """Of a load from the packet: octets (BPF_SIZE)."""
        return _SIZES[self.code & 0x18]

    @property
    def operation(self) -> int:
        """Of a calculation or branch (BPF_OP): ADD, JEQ and so on."""
        return self.code & 0xF0


_SIZES: Final = {W: 4, H: 2, B: 1}
_LAYOUT: Final = struct.Struct("=HBBI")


def decode(octets: bytes) -> list[Instruction]:
    """Return the instructions of a valid program; UsageError that names the fault otherwise.

    Every path through a valid program ends with a return: branches lead forward, to
    instructions of the program, and the last one returns.
    """
    count, rest = divmod(len(octets), SIZE)
    if rest or not 1 <= count <= MOST_INSTRUCTIONS:
        raise UsageError(
            f"filter: its program has {len(octets):,} octets; it takes 1 to {MOST_INSTRUCTIONS:,} "
            f"instructions of {SIZE} octets"
        )
    program = [Instruction(*each) for each in _LAYOUT.iter_unpack(octets)]
    for position, each in enumerate(program):
        if fault := _fault(each, count - position - 1):
            raise UsageError(f"filter: instruction {position} of its program {fault}")
    return program


def _fault(each: Instruction, behind: int) -> str:
    """Return what is wrong with an instruction that has ``behind`` more behind it, or ""."""
    code, k = each.code, each.k
    if code not in _KNOWN:
        return f"has the unknown code {code:#06x}"
    if k not in _OPERANDS.get(code, range(1 << 32)):
        return f"has the operand {k}, which the code {code:#06x} cannot have"
    if code == JMP | JA and k >= 1 << 31:
        return "leads back: loops are not possible, leave out protochain"
    if max(targets(each), default=0) > behind:
        return "leads behind the last one"
    return ""


def targets(each: Instruction) -> tuple[int, ...]:
    """Return the distances to the instructions that may follow: 1 is the next one."""
    if each.code in _RETURNS:
        return ()
    if each.code == JMP | JA:
        return (1 + each.k,)
    if each.code in _BRANCHES:
        return (1 + each.jt, 1 + each.jf)
    return (1,)


def reads_unset_memory(program: Sequence[Instruction]) -> bool:
    """Whether a valid program may read a word of M that it has not set.

    libpcap does not set M at the start, and Linux refuses such a program (check_load_and_stores
    in net/core/filter.c).
    """
    sets = {0: frozenset[int]()}
    for position, each in enumerate(program):
        known = sets.get(position)
        if known is None:
            continue
        if each.code in MEMORY_LOADS and each.k not in known:
            return True
        if each.code in (ST, STX):
            known |= {each.k}
        for distance in targets(each):
            sets[position + distance] = sets.get(position + distance, known) & known
    return False

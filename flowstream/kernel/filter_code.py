"""Translates a filter of classic BPF into an eBPF function that kernel programs call.

bpf/common.h declares it. ``data`` and ``end`` are the octets at hand of a frame of ``length``
octets. A VLAN tag beside the frame, in ``tag``, is seen at its place on the wire, behind the
addresses, and ``length`` contains it. The answer is one of FilterAnswer.

Octets of a frame beyond ``packet_loads.REACH`` are as if they were behind its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.kernel import assembler as ebpf
from flowstream.kernel import classic_bpf as classic
from flowstream.kernel.assembler import Assembler
from flowstream.kernel.packet_loads import (
    CUT,
    DATA,
    END,
    LENGTH,
    REJECT,
    A,
    PacketLoads,
    TaggedLoads,
    X,
)
from flowstream.layouts.constants import FilterAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kernel.classic_bpf import Instruction

_BITS: Final = 32
_OPPOSITE: Final = {
    classic.JEQ: ebpf.JNE,
    classic.JGT: ebpf.JLE,
    classic.JGE: ebpf.JLT,
}
_PACKET_MODES: Final = (classic.ABS, classic.IND, classic.MSH)


def translate(program: Sequence[Instruction], *, tagged: bool) -> bytes:
    """Return the octets of the function for a program of ``classic_bpf.decode``.

    Without ``tagged`` it ignores its argument ``tag``. Otherwise another one follows it, which
    it calls for frames with a tag. UsageError for a program that is too long.
    """
    plain = _Translation(program, PacketLoads).octets()
    if not tagged:
        return plain
    head = Assembler()
    # The argument ``tag`` is in the register of X.
    head.branch64(ebpf.JEQ, X, 0, "plain")
    head.call(len(plain) // ebpf.SIZE + 1)
    head.exit()
    head.label("plain")
    return head.octets() + plain + _Translation(program, TaggedLoads).octets()


class _Translation:
    """The function for frames of which ``loads`` loads."""

    def __init__(self, program: Sequence[Instruction], loads: type[PacketLoads]) -> None:
        self._code, self._program = Assembler(), program
        self._loads = loads(self._code)
        self._reachable = {0: 0}
        """Instructions that can be reached: the octets known to be at hand there."""

    def octets(self) -> bytes:
        """Return the whole function, less what cannot be reached."""
        self._loads.begin()
        self._code.alu32(ebpf.MOV, A, 0)
        self._code.alu32(ebpf.MOV, X, 0)
        loaded = {each.k for each in self._program if each.code in classic.MEMORY_LOADS}
        for word in sorted(loaded):
            self._code.store(ebpf.FRAME, _word(word), 0)
        for position, each in enumerate(self._program):
            if position not in self._reachable:
                continue
            self._loads.known = self._reachable[position]
            self._code.label(position)
            if self._is_out_of_reach(each):
                self._code.jump(REJECT)
                continue
            self._write(position, each)
            known = self._loads.known
            for distance in classic.targets(each):
                target = position + distance
                self._reachable[target] = min(self._reachable.get(target, known), known)
        self._write_ends()
        return self._code.octets()

    def _write_ends(self) -> None:
        # The verifier refuses what nothing jumps to.
        if self._code.uses(CUT):
            self._code.label(CUT)
            self._loads.reject_beyond_wire()
            self._answer(FilterAnswer.CUT)
        if self._code.uses(REJECT):
            self._code.label(REJECT)
            self._answer(FilterAnswer.REJECT)

    def _is_out_of_reach(self, each: Instruction) -> bool:
        if each.kind not in (classic.LD, classic.LDX) or each.mode not in _PACKET_MODES:
            return False
        return not self._loads.reaches(each.k + each.size)

    def _write(self, position: int, each: Instruction) -> None:
        kind = each.kind
        if kind in (classic.LD, classic.LDX):
            self._load(each)
        elif kind in (classic.ST, classic.STX):
            self._code.store(ebpf.FRAME, _word(each.k), A if kind == classic.ST else X)
        elif kind == classic.ALU:
            self._calculate(each)
        elif kind == classic.JMP:
            self._branch(position, each)
        elif kind == classic.RET:
            self._return(each)
        elif each.code == classic.MISC | classic.TAX:
            self._code.alu32(ebpf.MOV, X, A)
        else:
            self._code.alu32(ebpf.MOV, A, X)

    def _load(self, each: Instruction) -> None:
        register = A if each.kind == classic.LD else X
        if each.mode == classic.ABS:
            self._loads.absolute(register, each.k, each.size)
        elif each.mode == classic.IND:
            self._loads.indirect(each.k, each.size)
        elif each.mode == classic.MSH:
            self._loads.absolute(register, each.k, each.size)
            self._code.alu32(ebpf.AND, register, 0x0F)
            self._code.alu32(ebpf.LSH, register, 2)
        elif each.mode == classic.MEM:
            self._code.load(4, register, ebpf.FRAME, _word(each.k))
        elif each.mode == classic.LEN:
            self._code.alu32(ebpf.MOV, register, LENGTH)
        else:
            self._code.alu32(ebpf.MOV, register, each.k)

    def _calculate(self, each: Instruction) -> None:
        operation = each.operation
        operand = X if each.code & classic.X else each.k
        if operation == classic.NEG:
            operand = 0
        if operand is X and operation in (classic.DIV, classic.MOD):
            self._code.branch32(ebpf.JEQ, X, 0, REJECT)
        if operand is X and operation in (classic.LSH, classic.RSH):
            self._shift(operation)
        else:
            # Operations have the same codes in both languages.
            self._code.alu32(operation, A, operand)

    def _shift(self, operation: int) -> None:
        """Shift by X bits: by 32 or more, nothing is left."""
        within = object()
        self._code.branch32(ebpf.JLT, X, _BITS, within)
        self._code.alu32(ebpf.MOV, A, 0)
        self._code.label(within)
        self._code.alu32(operation, A, X)

    def _branch(self, position: int, each: Instruction) -> None:
        if each.code == classic.JMP | classic.JA:
            if each.k:
                self._code.jump(position + 1 + each.k)
            return
        comparison = each.operation
        operand = X if each.code & classic.X else each.k
        if_true = position + 1 + each.jt
        if_false = position + 1 + each.jf
        if if_true == if_false:
            if each.jt:
                self._code.jump(if_true)
        elif each.jt or comparison not in _OPPOSITE:
            self._code.branch32(comparison, A, operand, if_true)
            if each.jf:
                self._code.jump(if_false)
        else:
            self._code.branch32(_OPPOSITE[comparison], A, operand, if_false)

    def _return(self, each: Instruction) -> None:
        if each.code == classic.RET | classic.A:
            self._code.branch32(ebpf.JEQ, A, 0, REJECT)
            self._answer(FilterAnswer.ACCEPT)
        else:
            self._answer(FilterAnswer.ACCEPT if each.k else FilterAnswer.REJECT)

    def _answer(self, answer: FilterAnswer) -> None:
        """Return a number that the verifier does not know.

        It would go through the caller once for each answer. To it, the difference of two
        pointers is any number.
        """
        self._code.alu64(ebpf.MOV, A, END)
        self._code.alu64(ebpf.SUB, A, DATA)
        self._code.alu64(ebpf.RSH, A, _BITS)
        self._code.alu64(ebpf.XOR, A, answer)
        self._code.exit()


def _word(number: int) -> int:
    """Place of a word of M, from the frame pointer."""
    return -4 * (number + 1)

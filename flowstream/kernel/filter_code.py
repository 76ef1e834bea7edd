"""Translates a filter of classic BPF into an eBPF function that kernel programs call.

bpf/common.h declares it. ``data`` and ``end`` are the octets at hand of a frame of ``length``
octets. A VLAN tag beside the frame, in ``tag``, is seen at its place on the wire, behind the
addresses, and ``length`` contains it. The answer is one of FilterAnswer.

Octets of a frame beyond REACH are as if they were behind its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.kernel import assembler as ebpf
from flowstream.kernel import classic_bpf as classic
from flowstream.kernel.assembler import Assembler, Register
from flowstream.layouts.constants import FilterAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kernel.classic_bpf import Instruction

REACH: Final = 0x7FFF
"""Octets of a frame that a filter sees: what a load has room for as an offset."""

_A, _DATA, _END, _LENGTH, _X, _POINTER, _OCTET, _TAG = map(Register, range(8))
_TAG_AT: Final = 12
_TAG_SIZE: Final = 4
_BEHIND_TAG: Final = _TAG_AT + _TAG_SIZE
_BITS: Final = 32
_SIZES: Final = {classic.W: 4, classic.H: 2, classic.B: 1}
_OPPOSITE: Final = {
    classic.JEQ: ebpf.JNE,
    classic.JGT: ebpf.JLE,
    classic.JGE: ebpf.JLT,
}


def translate(program: Sequence[Instruction], *, tagged: bool) -> bytes:
    """Return the octets of the function for a program of ``classic_bpf.decode``.

    Without ``tagged`` it ignores its argument ``tag``. Otherwise another one follows it, which
    it calls for frames with a tag. UsageError for a program that is too long.
    """
    plain = _Reader(program).octets()
    if not tagged:
        return plain
    head = Assembler()
    head.branch64(ebpf.JEQ, _X, 0, "plain")
    head.call(len(plain) // ebpf.SIZE + 1)
    head.exit()
    head.label("plain")
    return head.octets() + plain + _TaggedReader(program).octets()


class _Reader:
    """Writes the program for frames whose octets are all in their place."""

    added = 0
    """Octets that the frame has on the wire beside those at hand."""

    def __init__(self, program: Sequence[Instruction]) -> None:
        self._code, self._program = Assembler(), program
        self._cuts, self._rejects = object(), object()
        """Labels of where failed loads end."""
        self._reachable = {0: 0}
        """Instructions that can be reached: the octets known to be at hand there."""
        self._known = 0

    def octets(self) -> bytes:
        """Return the whole program, less what cannot be reached."""
        self._code.alu32(ebpf.MOV, _A, 0)
        self._code.alu32(ebpf.MOV, _X, 0)
        loads = {each.k for each in self._program if each.code in _MEMORY_LOADS}
        for word in sorted(loads):
            self._code.store(ebpf.FRAME, _word(word), 0)
        for position, each in enumerate(self._program):
            if position not in self._reachable:
                continue
            self._known = self._reachable[position]
            self._code.label(position)
            if self._is_out_of_reach(each):
                self._code.jump(self._rejects)
                continue
            self._write(position, each)
            for distance in classic.targets(each):
                target = position + distance
                known = self._reachable.get(target, self._known)
                self._reachable[target] = min(known, self._known)
        self._write_ends()
        return self._code.octets()

    def _write_ends(self) -> None:
        # The verifier refuses what nothing jumps to.
        if self._code.uses(self._cuts):
            self._code.label(self._cuts)
            self._code.alu64(ebpf.SUB, _POINTER, _DATA)
            if self.added:
                self._code.alu64(ebpf.ADD, _POINTER, self.added)
            self._code.branch64(ebpf.JGT, _POINTER, _LENGTH, self._rejects)
            self._answer(FilterAnswer.CUT)
        if self._code.uses(self._rejects):
            self._code.label(self._rejects)
            self._answer(FilterAnswer.REJECT)

    def _is_out_of_reach(self, each: Instruction) -> bool:
        is_load = each.code & 7 == classic.LD and each.code & 0xE0 in (classic.ABS, classic.IND)
        size = _SIZES.get(each.code & 0x18, 0)
        return (is_load or each.code == classic.LDX | classic.MSH | classic.B) and (
            each.k + size - self.added > REACH
        )

    def _write(self, position: int, each: Instruction) -> None:
        kind = each.code & 7
        if kind in (classic.LD, classic.LDX):
            self._load(each)
        elif kind in (classic.ST, classic.STX):
            self._code.store(ebpf.FRAME, _word(each.k), _A if kind == classic.ST else _X)
        elif kind == classic.ALU:
            self._calculate(each)
        elif kind == classic.JMP:
            self._branch(position, each)
        elif kind == classic.RET:
            self._return(each)
        elif each.code & 0xF8 == classic.TAX:
            self._code.alu32(ebpf.MOV, _X, _A)
        else:
            self._code.alu32(ebpf.MOV, _A, _X)

    def _load(self, each: Instruction) -> None:
        register = _A if each.code & 7 == classic.LD else _X
        mode, size = each.code & 0xE0, _SIZES.get(each.code & 0x18, 0)
        if mode == classic.ABS:
            self._load_at(_A, each.k, size)
        elif mode == classic.IND:
            self._load_indirect(each.k, size)
        elif mode == classic.MSH:
            self._load_at(_X, each.k, 1)
            self._code.alu32(ebpf.AND, _X, 0x0F)
            self._code.alu32(ebpf.LSH, _X, 2)
        elif mode == classic.MEM:
            self._code.load(4, register, ebpf.FRAME, _word(each.k))
        elif mode == classic.LEN:
            self._code.alu32(ebpf.MOV, register, _LENGTH)
        else:
            self._code.alu32(ebpf.MOV, register, each.k)

    def _load_at(self, register: int, offset: int, size: int) -> None:
        """Load from a constant offset of the frame on the wire."""
        self._load_from_data(register, offset, size)

    def _load_from_data(self, register: int, offset: int, size: int) -> None:
        if offset + size > self._known:
            self._require(offset + size)
        self._code.load(size, register, _DATA, offset)
        self._to_number(register, size)

    def _require(self, needed: int) -> None:
        """Reject the frame unless its first ``needed`` octets are at hand."""
        self._code.alu64(ebpf.MOV, _POINTER, _DATA)
        self._code.alu64(ebpf.ADD, _POINTER, needed)
        self._code.branch64(ebpf.JGT, _POINTER, _END, self._cuts)
        self._known = max(self._known, needed)

    def _to_number(self, register: int, size: int) -> None:
        if size > 1:
            self._code.big_endian(size, register)

    def _load_indirect(self, offset: int, size: int) -> None:
        """Load from X + ``offset``, a sum of which nothing is cut off."""
        self._place(offset, size)
        self._load_at_place(size)

    def _place(self, offset: int, size: int) -> None:
        self._code.alu64(ebpf.MOV, _POINTER, _X)
        if offset:
            self._code.alu64(ebpf.ADD, _POINTER, offset)
        self._code.branch64(ebpf.JGT, _POINTER, REACH - size, self._rejects)
        # Changes nothing. The verifier may know more than the comparison tells it, and go on
        # with a number that contradicts it.
        self._code.alu64(ebpf.AND, _POINTER, REACH)

    def _load_at_place(self, size: int) -> None:
        self._code.alu64(ebpf.ADD, _POINTER, _DATA)
        self._code.alu64(ebpf.ADD, _POINTER, size)
        self._code.branch64(ebpf.JGT, _POINTER, _END, self._cuts)
        self._code.load(size, _A, _POINTER, -size)
        self._to_number(_A, size)

    def _calculate(self, each: Instruction) -> None:
        operation = each.code & 0xF0
        operand = _X if each.code & classic.X else each.k
        if operation == classic.NEG:
            operand = 0
        if operand is _X and operation in (classic.DIV, classic.MOD):
            self._code.branch32(ebpf.JEQ, _X, 0, self._rejects)
        if operand is _X and operation in (classic.LSH, classic.RSH):
            self._shift(operation)
        else:
            # Operations have the same codes in both languages.
            self._code.alu32(operation, _A, operand)

    def _shift(self, operation: int) -> None:
        """Shift by X bits: by 32 or more, nothing is left."""
        within = object()
        self._code.branch32(ebpf.JLT, _X, _BITS, within)
        self._code.alu32(ebpf.MOV, _A, 0)
        self._code.label(within)
        self._code.alu32(operation, _A, _X)

    def _branch(self, position: int, each: Instruction) -> None:
        if each.code == classic.JMP | classic.JA:
            if each.k:
                self._code.jump(position + 1 + each.k)
            return
        comparison = each.code & 0xF0
        operand = _X if each.code & classic.X else each.k
        if_true = position + 1 + each.jt
        if_false = position + 1 + each.jf
        if if_true == if_false:
            if each.jt:
                self._code.jump(if_true)
        elif each.jt or comparison not in _OPPOSITE:
            self._code.branch32(comparison, _A, operand, if_true)
            if each.jf:
                self._code.jump(if_false)
        else:
            self._code.branch32(_OPPOSITE[comparison], _A, operand, if_false)

    def _return(self, each: Instruction) -> None:
        if each.code == classic.RET | classic.A:
            self._code.branch32(ebpf.JEQ, _A, 0, self._rejects)
            self._answer(FilterAnswer.ACCEPT)
        else:
            self._answer(FilterAnswer.ACCEPT if each.k else FilterAnswer.REJECT)

    def _answer(self, answer: FilterAnswer) -> None:
        """Return a number that the verifier does not know.

        It would go through the caller once for each answer. To it, the difference of two
        pointers is any number.
        """
        self._code.alu64(ebpf.MOV, _A, _END)
        self._code.alu64(ebpf.SUB, _A, _DATA)
        self._code.alu64(ebpf.RSH, _A, _BITS)
        self._code.alu64(ebpf.XOR, _A, answer)
        self._code.exit()


class _TaggedReader(_Reader):
    """Writes the program for frames whose outer VLAN tag is beside them."""

    added = _TAG_SIZE

    def octets(self) -> bytes:
        """Return the whole program; the tag is kept from the register of X."""
        self._code.alu64(ebpf.MOV, _TAG, _X)
        return super().octets()

    def _load_at(self, register: int, offset: int, size: int) -> None:
        if offset + size <= _TAG_AT:
            self._load_from_data(register, offset, size)
        elif offset >= _BEHIND_TAG:
            self._load_from_data(register, offset - _TAG_SIZE, size)
        else:
            self._load_around_tag(register, offset, size)

    def _load_around_tag(self, register: int, offset: int, size: int) -> None:
        """Put together octets of the tag and of the frame before or behind it."""
        places = range(offset, offset + size)
        needed = max(
            (place + 1 if place < _TAG_AT else place + 1 - _TAG_SIZE)
            for place in (*places, _TAG_AT - 1)
            if not _TAG_AT <= place < _BEHIND_TAG
        )
        if needed > self._known:
            self._require(needed)
        self._code.alu32(ebpf.MOV, register, 0)
        for place in places:
            self._load_octet(place)
            self._code.alu32(ebpf.LSH, register, 8)
            self._code.alu32(ebpf.OR, register, _OCTET)

    def _load_octet(self, place: int) -> None:
        if _TAG_AT <= place < _BEHIND_TAG:
            self._code.alu32(ebpf.MOV, _OCTET, _TAG)
            self._code.alu32(ebpf.RSH, _OCTET, 8 * (_BEHIND_TAG - 1 - place))
            self._code.alu32(ebpf.AND, _OCTET, 0xFF)
        else:
            at = place if place < _TAG_AT else place - _TAG_SIZE
            self._code.load(1, _OCTET, _DATA, at)

    def _load_indirect(self, offset: int, size: int) -> None:
        if offset >= _BEHIND_TAG:
            super()._load_indirect(offset - _TAG_SIZE, size)
            return
        self._place(offset, size)
        loaded = object()
        known = self._known
        for place in range(max(offset, _TAG_AT + 1 - size), _BEHIND_TAG):
            elsewhere = object()
            self._code.branch64(ebpf.JNE, _POINTER, place, elsewhere)
            self._load_around_tag(_A, place, size)
            self._code.jump(loaded)
            self._code.label(elsewhere)
            self._known = known
        before = object()
        self._code.branch64(ebpf.JLT, _POINTER, _BEHIND_TAG, before)
        self._code.alu64(ebpf.SUB, _POINTER, _TAG_SIZE)
        self._code.label(before)
        self._load_at_place(size)
        self._code.label(loaded)


_MEMORY_LOADS: Final = (classic.LD | classic.MEM, classic.LDX | classic.MEM)


def _word(number: int) -> int:
    """Place of a word of M, from the frame pointer."""
    return -4 * (number + 1)

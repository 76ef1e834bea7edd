"""Loads of a filter from the packet, each compared with the end of the octets at hand.

Of a frame whose outer VLAN tag is beside it a filter sees what is on the wire: the tag behind
the addresses, and the other octets behind the tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.kernel import assembler as ebpf
from flowstream.kernel.assembler import Register

if TYPE_CHECKING:
    from flowstream.kernel.assembler import Assembler

REACH: Final = 0x7FFF
"""Octets of a frame that a filter sees: what a load has room for as an offset."""
CUT: Final = "cut"
"""Label of where loads go that end behind the octets at hand."""
REJECT: Final = "reject"
"""Label of where the frame is rejected."""

A, DATA, END, LENGTH, X, _POINTER, _OCTET, _TAG = map(Register, range(8))
"""Registers: r1 to r4 have the arguments at first."""
_TAG_AT: Final = 12
_TAG_SIZE: Final = 4
_BEHIND_TAG: Final = _TAG_AT + _TAG_SIZE


class PacketLoads:
    """Writes loads from frames whose octets are all in their place.

    ``known`` octets of the frame are known to be at hand where the code ends so far.
    """

    added = 0
    """Octets that the frame has on the wire beside those at hand."""

    def __init__(self, code: Assembler) -> None:
        self._code = code
        self.known = 0

    def begin(self) -> None:
        """Write what comes first: nothing, the argument of the tag is not needed."""

    def reaches(self, end: int) -> bool:
        """Whether a load from a constant offset may end at ``end``."""
        return end - self.added <= REACH

    def absolute(self, register: int, offset: int, size: int) -> None:
        """Load 1, 2 or 4 octets from a constant offset."""
        self._require(offset + size)
        self._code.load(size, register, DATA, offset)
        self._to_number(register, size)

    def indirect(self, offset: int, size: int) -> None:
        """Load 1, 2 or 4 octets into A from X + ``offset``, a sum of which nothing is cut off."""
        self._place(offset, size)
        self._load_at_place(size)

    def reject_beyond_wire(self) -> None:
        """Reject the frame if the load that has led to CUT ends behind it on the wire, too."""
        self._code.alu64(ebpf.SUB, _POINTER, DATA)
        if self.added:
            self._code.alu64(ebpf.ADD, _POINTER, self.added)
        self._code.branch64(ebpf.JGT, _POINTER, LENGTH, REJECT)

    def _require(self, needed: int) -> None:
        """Go on only with frames whose first ``needed`` octets are at hand."""
        if needed <= self.known:
            return
        self._code.alu64(ebpf.MOV, _POINTER, DATA)
        self._code.alu64(ebpf.ADD, _POINTER, needed)
        self._code.branch64(ebpf.JGT, _POINTER, END, CUT)
        self.known = needed

    def _to_number(self, register: int, size: int) -> None:
        if size > 1:
            self._code.big_endian(size, register)

    def _place(self, offset: int, size: int) -> None:
        self._code.alu64(ebpf.MOV, _POINTER, X)
        if offset:
            self._code.alu64(ebpf.ADD, _POINTER, offset)
        self._code.branch64(ebpf.JGT, _POINTER, REACH - size, REJECT)
        # Changes nothing. The verifier may know more than the comparison tells it, and go on
        # with a number that contradicts it.
        self._code.alu64(ebpf.AND, _POINTER, REACH)

    def _load_at_place(self, size: int) -> None:
        self._code.alu64(ebpf.ADD, _POINTER, DATA)
        self._code.alu64(ebpf.ADD, _POINTER, size)
        self._code.branch64(ebpf.JGT, _POINTER, END, CUT)
        self._code.load(size, A, _POINTER, -size)
        self._to_number(A, size)


class TaggedLoads(PacketLoads):
    """Writes loads from frames whose outer VLAN tag is beside them."""

    added = _TAG_SIZE

    def begin(self) -> None:
        """Keep the tag, whose register is that of X."""
        self._code.alu64(ebpf.MOV, _TAG, X)

    def absolute(self, register: int, offset: int, size: int) -> None:
        """Load 1, 2 or 4 octets from a constant offset of the frame on the wire."""
        if offset + size <= _TAG_AT:
            super().absolute(register, offset, size)
        elif offset >= _BEHIND_TAG:
            super().absolute(register, offset - _TAG_SIZE, size)
        else:
            self._load_around_tag(register, offset, size)

    def indirect(self, offset: int, size: int) -> None:
        """Load from X + ``offset`` of the frame on the wire."""
        if offset >= _BEHIND_TAG:
            super().indirect(offset - _TAG_SIZE, size)
            return
        self._place(offset, size)
        loaded = object()
        known = self.known
        for place in range(max(offset, _TAG_AT + 1 - size), _BEHIND_TAG):
            elsewhere = object()
            self._code.branch64(ebpf.JNE, _POINTER, place, elsewhere)
            self._load_around_tag(A, place, size)
            self._code.jump(loaded)
            self._code.label(elsewhere)
            self.known = known
        before = object()
        self._code.branch64(ebpf.JLT, _POINTER, _BEHIND_TAG, before)
        self._code.alu64(ebpf.SUB, _POINTER, _TAG_SIZE)
        self._code.label(before)
        self._load_at_place(size)
        self._code.label(loaded)

    def _load_around_tag(self, register: int, offset: int, size: int) -> None:
        """Put together octets of the tag and of the frame before or behind it."""
        self._require(max(_TAG_AT, offset + size - _TAG_SIZE))
        self._code.alu32(ebpf.MOV, register, 0)
        for place in range(offset, offset + size):
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
            self._code.load(1, _OCTET, DATA, at)

"""Filters beside libpcap, which runs the same classic BPF in user space."""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import POINTER, byref, c_char_p, c_long, c_uint32, c_void_p
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flowstream.closing import Closing
from flowstream.filtering import libpcap
from flowstream.kernel import classic_bpf, filter_code, libbpf, structures
from flowstream.kernel.classic_bpf import Instruction
from flowstream.layouts.constants import FILTER_TAG, FilterAnswer
from support.bytecode import instruction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ARGUMENTS = struct.Struct("=QQ")
"""Before a frame in ``Function``: the arguments tag and length."""
SHORTEST = 14
"""BPF_PROG_TEST_RUN refuses shorter packets."""
VLAN_AT, VLAN_SIZE = 12, 4
"""Place and octets of a tag in a frame."""


class PacketHeader(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_: ClassVar = [
        ("seconds", c_long),
        ("microseconds", c_long),
        ("captured", c_uint32),
        ("length", c_uint32),
    ]


class Tag(NamedTuple):
    """A VLAN tag beside the frame."""

    tpid: int
    tci: int

    @property
    def argument(self) -> int:
        """The function's argument."""
        return FILTER_TAG | self.tpid << 16 | self.tci

    def put_into(self, frame: bytes) -> bytes:
        """The frame on the wire."""
        return frame[:VLAN_AT] + struct.pack(">HH", self.tpid, self.tci) + frame[VLAN_AT:]


def encode(program: Sequence[Instruction]) -> bytes:
    """The octets of a program of classic BPF."""
    return b"".join(struct.pack("=HBBI", *each) for each in program)


_CODES = sorted(classic_bpf._KNOWN)
_RETURNS = (0x06, 0x16)
_EDGES = (
    *(0x7FFC, 0x7FFD, 0x7FFE, 0x7FFF, 0x8000, 0x8003, 0xFFFE, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFE, 0xFFFFFFFF),
)
_START = [Instruction(0x02, 0, 0, word) for word in range(classic_bpf.WORDS)]
"""Memory is set: libpcap does not do so."""


def program_of(data: bytes) -> list[Instruction]:
    """A valid program of any instructions, one for 8 octets, which end with a return."""
    pieces = [data[at : at + 8].ljust(8, b"\0") for at in range(0, len(data), 8)] or [bytes(8)]
    made = [_instruction_of(piece, len(pieces) - n - 1) for n, piece in enumerate(pieces)]
    return [*_START, *made]


def _instruction_of(piece: bytes, behind: int) -> Instruction:
    code = _CODES[piece[0] % len(_CODES)] if behind else _RETURNS[piece[0] % 2]
    if behind and code in _RETURNS and piece[3] % 8:
        code = 0x28  # a half word: otherwise most programs are short
    number = int.from_bytes(piece[4:], "little")
    k = (
        *(number % 24, number % 64, number % 256, number % 1_500),
        *(_EDGES[number % len(_EDGES)], number, number % 70_000, piece[4]),
    )[piece[3] % 8]
    allowed = classic_bpf._OPERANDS.get(code, range(1 << 32))
    k = allowed.start + k % len(allowed)
    if code == 0x05:  # JA
        return Instruction(code, 0, 0, k % behind)
    if code & 7 == classic_bpf.JMP:
        return Instruction(code, piece[1] % min(behind, 256), piece[2] % min(behind, 256), k)
    return Instruction(code, 0, 0, k)


def compare(program: bytes, frames: Iterable[bytes], beyond: Iterable[int], tag: Tag) -> None:
    """Assert that kernel and libpcap agree about frames, also cut ones and such with a tag.

    ``beyond`` are octets that the frames have on the wire beyond those at hand.
    """
    with Function(program) as function:
        for frame in frames:
            wire = tag.put_into(frame)
            for more in beyond:
                found = function.answer(frame, len(frame) + more)
                with_tag = function.answer(frame, len(wire) + more, tag)
                expected = accepts(program, frame, len(frame) + more)
                assert (found == FilterAnswer.ACCEPT) == expected, frame
                expected = accepts(program, wire, len(wire) + more)
                assert (with_tag == FilterAnswer.ACCEPT) == expected, frame
                if not more:
                    assert FilterAnswer.CUT not in (found, with_tag)


@cache
def _offline_filter() -> Callable[..., int]:
    run = libpcap.library().pcap_offline_filter
    run.argtypes = [POINTER(libpcap._Program), POINTER(PacketHeader), c_char_p]
    return run


def accepts(program: bytes, frame: bytes, length: int | None = None) -> bool:
    """Whether libpcap accepts a frame of ``length`` octets, of which it has ``frame``."""
    octets = ctypes.create_string_buffer(program, len(program))
    code = libpcap._Program(len(program) // 8, ctypes.cast(octets, c_void_p))
    header = PacketHeader(0, 0, len(frame), len(frame) if length is None else length)
    return bool(_offline_filter()(byref(code), byref(header), frame))


class Function(Closing):
    """The function of a filter in the kernel, for any frame, length and tag."""

    def __init__(self, program: bytes, *, tagged: bool = True) -> None:
        code = filter_code.translate(classic_bpf.decode(program), tagged=tagged)
        self.fd = libbpf.prog_load("filter", _caller() + code)
        self.instructions = len(code) // 8
        self.verified = libbpf.object_info(structures.ProgInfo, self.fd).verified_insns

    def answer(
        self, frame: bytes, length: int | None = None, tag: Tag | None = None
    ) -> FilterAnswer:
        """The answer for a frame of which ``length`` octets are on the wire, with the tag."""
        if length is None:
            length = len(frame) + (VLAN_SIZE if tag else 0)
        data = ARGUMENTS.pack(tag.argument if tag else 0, length) + frame
        options = structures.TestRunOpts(
            data_in=ctypes.cast(c_char_p(data), c_void_p), data_size_in=len(data), repeat=1
        )
        run = libbpf.library().bpf_prog_test_run_opts
        libbpf.check(run(self.fd, byref(options)), "running the filter")
        return FilterAnswer(options.retval)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def _caller() -> bytes:
    """A program that takes the arguments from before the frame, and calls what follows it."""
    return b"".join(
        instruction(*each)
        for each in (
            (0xBF, 6, 1),  # r6 = context
            (0x61, 2, 6, 4),  # r2 = its data_end
            (0x61, 1, 6, 0),  # r1 = its data
            (0xBF, 5, 1),
            (0x07, 5, 0, 0, ARGUMENTS.size),
            (0x2D, 5, 2, 11),  # to the end, if the packet is shorter
            (0x79, 7, 1, 0),  # r7 = tag
            (0x79, 8, 1, 8),  # r8 = length
            (0xBF, 1, 6),
            (0xB7, 2, 0, 0, ARGUMENTS.size),
            (0x85, 0, 0, 0, 44),  # bpf_xdp_adjust_head
            (0x61, 2, 6, 4),
            (0x61, 1, 6, 0),
            (0xBF, 3, 8),
            (0xBF, 4, 7),
            (0x85, 0, 1, 0, 3),  # call what follows the last instruction
            (0x95,),
            (0xB7, 0, 0, 0, 99),
            (0x95,),
        )
    )

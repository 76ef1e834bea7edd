"""Filters of classic BPF in the kernel: the answers are libpcap's, for any program."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from packets.build import ether, ip4, ip6, tcp, udp
from support.filter_expressions import Expressions
from support.filters import (
    SHORTEST,
    Function,
    Tag,
    accepts,
    compare,
    encode,
    program_of,
)

from flowstream.errors import UsageError
from flowstream.filtering.compiling import compile_here
from flowstream.kernel import classic_bpf, filter_code, packet_loads
from flowstream.kernel.classic_bpf import Instruction
from flowstream.layouts.constants import FilterAnswer

REPEATABLE = os.environ.get("CI") == "true"
ACCEPT, REJECT = Instruction(0x06, 0, 0, 0xFFFF), Instruction(0x06, 0, 0, 0)
RETURN_A = Instruction(0x16, 0, 0, 0)
TAG = Tag(0x8100, 0xA123)
FRAME = bytes(range(1, 15)) + bytes(range(0x81, 0xC1))
GENEVE = struct.pack("!HHHHHHI", 40_000, 6_081, 56, 0, 0, 0x0800, 17 << 8)
"""A header of UDP and one of Geneve, network 17."""
FRAMES = (
    FRAME,
    FRAME[:SHORTEST],
    ether(0x0800, ip4(6, tcp(0x12, b"GET / HTTP/1.1"))),
    ether(0x0800, ip4(17, udp(b"abc"), options=b"\1" * 8)),
    ether(0x86DD, ip6(17, udp(b"abc"))),
    ether(0x8847, b"\0\x01\x10\x40\0\x01\x11\x40" + ip4(17, udp())),  # MPLS, label 17 twice
    ether(0x8864, b"\x11\0\0\7\0\x21\0\x21" + ip4(17, udp())),  # PPPoE session 7
    ether(0x0800, ip4(17, GENEVE + ip4(6, tcp(0x02)))),
)


def loads(mode: int, k: int, size: int, x: int = 0) -> bytes:
    """A program that returns what it loads."""
    return encode([Instruction(0x01, 0, 0, x), Instruction(mode | size, 0, 0, k), RETURN_A])


@settings(max_examples=499, derandomize=REPEATABLE, deadline=None)
@given(
    data=st.binary(min_size=8, max_size=480),
    frame=st.one_of(st.sampled_from(FRAMES), st.binary(min_size=SHORTEST, max_size=120)),
    more=st.sampled_from([1, 4, 1_000]),
    tag=st.builds(Tag, st.sampled_from([0x8100, 0x88A8]), st.integers(0, 0xFFFF)),
)
def test_any_program_answers_as_libpcap(data: bytes, frame: bytes, more: int, tag: Tag) -> None:
    compare(encode(program_of(data)), [frame, *FRAMES], (0, more), tag)


@settings(max_examples=499, derandomize=REPEATABLE, deadline=None)
@given(
    choices=st.binary(min_size=2, max_size=120),
    frame=st.one_of(st.sampled_from(FRAMES), st.binary(min_size=SHORTEST, max_size=120)),
)
def test_any_expression_answers_as_libpcap(choices: bytes, frame: bytes) -> None:
    try:
        made = compile_here(Expressions(choices).made())
    except UsageError:
        reject()
    compare(made.ethernet, [frame, *FRAMES], (0, 4), TAG)


@pytest.mark.parametrize("size", [0x00, 0x08, 0x10])
@pytest.mark.parametrize("mode", [0x20, 0x40])
def test_every_place_is_loaded_from(mode: int, size: int) -> None:
    """Before, in, behind and across the tag, and around the end of the frame."""
    octets = {0x00: 4, 0x08: 2, 0x10: 1}[size]
    wire = TAG.put_into(FRAME)
    for place in range(len(wire) + 3):
        value = int.from_bytes(wire[place : place + octets], "big")
        compare_to = Instruction(0x15, 0, 1, value)
        head = [Instruction(0x01, 0, 0, place // 2)]
        k = place if mode == 0x20 else place - place // 2
        program = encode([*head, Instruction(mode | size, 0, 0, k), compare_to, ACCEPT, REJECT])
        with Function(program) as function:
            within = place + octets <= len(wire)
            assert function.answer(FRAME, tag=TAG) == within
            assert accepts(program, wire) == within
            # Untagged, the octets are found at their own places.
            assert function.answer(wire) == within


@pytest.mark.parametrize("x", [2**32 - 1, 2**32 - 13, 2**31, 2**31 - 1, 0x8000, 0x7FFF, 80])
@pytest.mark.parametrize("k", [0, 13, 14, 2**31, 2**32 - 1])
def test_an_offset_beyond_the_frame_rejects_it(x: int, k: int) -> None:
    """The sum of X and the offset is not cut to 32 bits."""
    compare(loads(0x40, k, 0x10, x), [FRAME], (0,), TAG)
    with Function(loads(0x40, k, 0x10, x)) as function:
        assert function.answer(FRAME) == FilterAnswer.REJECT


@pytest.mark.parametrize("tagged", [False, True])
def test_an_octet_that_is_not_at_hand_is_told_from_one_that_is_not_there(tagged: bool) -> None:
    tag = TAG if tagged else None
    for place in (FRAME.index(0xC0), len(FRAME), len(FRAME) + 1):
        at = place + 4 * tagged
        for program in (loads(0x20, at, 0x10), loads(0x40, 14, 0x10, at - 14)):
            with Function(program) as function:
                whole = len(FRAME) + 1 + 4 * tagged
                expected = (
                    FilterAnswer.ACCEPT,
                    FilterAnswer.CUT,
                    FilterAnswer.REJECT,
                )[place - len(FRAME) + 1]
                assert function.answer(FRAME, whole, tag) == expected


def test_a_length_is_that_on_the_wire() -> None:
    for code in (0x80, 0x81):
        load = [
            Instruction(code, 0, 0, 0),
            *([Instruction(0x87, 0, 0, 0)] if code == 0x81 else []),
        ]
        for length in (len(FRAME), 3_000_000_000):
            program = encode([*load, Instruction(0x15, 0, 1, length), ACCEPT, REJECT])
            with Function(program) as function:
                assert function.answer(FRAME, length) == FilterAnswer.ACCEPT
                assert function.answer(FRAME, length + 1) == FilterAnswer.REJECT


def test_division_by_zero_rejects() -> None:
    for operation in (0x3C, 0x9C):
        for x, expected in ((0, FilterAnswer.REJECT), (2, FilterAnswer.ACCEPT)):
            program = [Instruction(0x00, 0, 0, 5), Instruction(0x01, 0, 0, x)]
            with Function(encode([*program, Instruction(operation, 0, 0, 0), RETURN_A])) as found:
                assert found.answer(FRAME) == expected


def test_shifts_by_32_or_more_leave_nothing() -> None:
    for operation in (0x6C, 0x7C):
        for x, left in ((0, True), (31, True), (32, False), (33, False), (2**32 - 1, False)):
            program = [Instruction(0x00, 0, 0, 2**31 + 1), Instruction(0x01, 0, 0, x)]
            with Function(encode([*program, Instruction(operation, 0, 0, 0), RETURN_A])) as found:
                assert found.answer(FRAME) == left


def test_memory_is_zero_at_the_start() -> None:
    for code in (0x60, 0x61):
        program = [Instruction(0x00, 0, 0, 7), Instruction(0x01, 0, 0, 7)]
        program += [Instruction(code, 0, 0, 15), *([Instruction(0x87, 0, 0, 0)] * (code == 0x61))]
        with Function(encode([*program, RETURN_A])) as function:
            assert function.answer(FRAME) == FilterAnswer.REJECT


def test_octets_beyond_the_reach_are_as_if_not_there() -> None:
    reach = packet_loads.REACH
    for program, expected in (
        (loads(0x20, reach - 4, 0x00), FilterAnswer.CUT),
        (loads(0x20, reach - 3, 0x00), FilterAnswer.REJECT),
        (loads(0x40, 14, 0x10, reach - 15), FilterAnswer.CUT),
        (loads(0x40, 14, 0x10, reach - 14), FilterAnswer.REJECT),
    ):
        with Function(program, tagged=False) as function:
            assert function.answer(FRAME, 100_000) == expected


def test_instructions_that_nothing_leads_to_are_left_out() -> None:
    """The verifier refuses programs that have some."""
    program = [
        Instruction(0x05, 0, 0, 2),
        *[Instruction(0x20, 0, 0, 2**32 - 1)] * 2,
        Instruction(0x20, 0, 0, 70_000),
        *[Instruction(0x04, 0, 0, 1)] * 3,
        ACCEPT,
    ]
    with Function(encode(program)) as function:
        assert function.answer(FRAME) == FilterAnswer.REJECT


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ([], "0 octets; it takes 1 to 32,768 instructions"),
        ([ACCEPT] * 32_769, "262,152 octets"),
        ([Instruction(0x28, 0, 0, 12)], "instruction 0 of its program leads behind the last"),
        ([Instruction(0x15, 1, 0, 0), ACCEPT], "instruction 0 .* leads behind the last one"),
        ([Instruction(0x05, 0, 0, 1), ACCEPT], "instruction 0 .* leads behind the last one"),
        ([ACCEPT, Instruction(0x05, 0, 0, 2**32 - 2), ACCEPT], "instruction 1 .* leads back"),
        ([Instruction(0x34, 0, 0, 0), ACCEPT], "the operand 0, which the code 0x0034 cannot"),
        ([Instruction(0x64, 0, 0, 32), ACCEPT], "the operand 32, which the code 0x0064 cannot"),
        ([Instruction(0x02, 0, 0, 16), ACCEPT], "the operand 16, which the code 0x0002 cannot"),
        ([Instruction(0x38, 0, 0, 0), ACCEPT], "the unknown code 0x0038"),
        ([Instruction(0x0E, 0, 0, 0)], "the unknown code 0x000e"),
        ([Instruction(0x8C, 0, 0, 0), ACCEPT], "the unknown code 0x008c"),
        ([Instruction(0x128, 0, 0, 0), ACCEPT], "the unknown code 0x0128"),
    ],
)
def test_a_program_that_is_not_valid_is_refused(program: list[Instruction], fault: str) -> None:
    with pytest.raises(UsageError, match=f"^filter: .*{fault}"):
        classic_bpf.decode(encode(program))


def test_half_an_instruction_is_refused() -> None:
    with pytest.raises(UsageError, match="12 octets"):
        classic_bpf.decode(encode([ACCEPT]) + bytes(4))


def test_a_program_whose_jumps_would_be_too_long_is_refused() -> None:
    count = 12_000
    branch, jump = Instruction(0x15, 0, 1, 0), Instruction(0x05, 0, 0, count)
    body = [Instruction(0xB1, 0, 0, 0)] * count
    with pytest.raises(UsageError, match=r"^filter: it is too long for this program; shorten it$"):
        filter_code.translate([branch, jump, *body, ACCEPT], tagged=False)


def test_a_long_program_runs() -> None:
    """A comparison for each of many numbers, and one more."""
    count = 4_001
    chain = [Instruction(0x15, 0, 1, n) for n in range(count)]
    program = [Instruction(0x20, 0, 0, 0)]
    for each in chain:
        program += [each, ACCEPT]
    for number, expected in ((count - 1, True), (count, False)):
        frame = number.to_bytes(4, "big") + FRAME[4:]
        with Function(encode([*program, REJECT])) as function:
            assert function.answer(frame) == expected
            assert function.answer(frame, tag=TAG) == expected

"""Small BPF programs in this machine's byte order (struct bpf_insn, linux/bpf.h)."""

from __future__ import annotations

import struct
import sys


def instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, number: int = 0) -> bytes:
    """An instruction with registers ``to`` and ``of``."""
    low, high = (to, of) if sys.byteorder == "little" else (of, to)
    return struct.pack("=BBhi", code, high << 4 | low, offset, number)


def returning(number: int) -> bytes:
    """A program that does nothing else."""
    return instruction(0xB7, number=number) + instruction(0x95)

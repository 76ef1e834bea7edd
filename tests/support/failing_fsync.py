"""Run a command whose fsync calls fail with EIO, as on a failing disk.

python failing_fsync.py COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

FSYNC = {"x86_64": 74, "aarch64": 82}
# linux/bpf_common.h: load the system call's number, compare, return.
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# linux/seccomp.h, linux/prctl.h
ALLOW, FAIL = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class Instruction(ctypes.Structure):
    """``struct sock_filter``."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def fail_fsync() -> None:
    """Make fsync fail in this process and the programs it executes; needs CAP_SYS_ADMIN."""
    instructions = (Instruction * 4)(
        Instruction(LOAD, 0, 0, 0),
        Instruction(JUMP_IF_EQUAL, 0, 1, FSYNC[os.uname().machine]),
        Instruction(RETURN, 0, 0, FAIL | errno.EIO),
        Instruction(RETURN, 0, 0, ALLOW),
    )
    program = Program(len(instructions), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    fail_fsync()
    os.execvp(sys.argv[1], sys.argv[1:])

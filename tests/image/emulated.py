"""Runs a command where arm64's programs run, too, each by qemu.

    emulated.py COMMAND…        (as root)

In user and mount namespaces with a binfmt_misc of their own, as Linux has them since 6.7: nothing
changes for the rest of the machine. Users and groups are the same inside and outside.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000  # linux/sched.h
IDS: Final = 65_536
HANDLERS: Final = Path("/proc/sys/fs/binfmt_misc")
# A little-endian ELF of 64 bits for any system: an executable or a shared object of machine 183.
MAGIC: Final = rb"\x7fELF\x02\x01\x01" + rb"\x00" * 9 + rb"\x02\x00\xb7\x00"
MASK: Final = rb"\xff" * 7 + rb"\x00" + rb"\xff" * 8 + rb"\xfe\xff\xff\xff"


def enter(outside: socket.socket) -> None:
    """Enter new namespaces, in which this process is root."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    outside.send(b"entered")
    if outside.recv(16) != b"mapped":
        raise OSError("the users of the namespace were not mapped")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def register(emulator: str) -> None:
    """Let the kernel run arm64's programs by an emulator, which it opens now."""
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", HANDLERS], check=True)
    line = b":".join((b"", b"arm64", b"M", b"", MAGIC, MASK, os.fsencode(emulator), b"F"))
    Path(HANDLERS, "register").write_bytes(line)


def main() -> int:
    """Run the command; its exit status."""
    emulator = shutil.which("qemu-aarch64-static")
    if emulator is None:
        sys.exit("qemu-aarch64-static is missing: apt-get install qemu-user-static")
    outside, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        outside.close()
        enter(inside)
        inside.close()
        register(emulator)
        os.execvp(sys.argv[1], sys.argv[1:])
    inside.close()
    if outside.recv(16) == b"entered":
        for kind in ("uid", "gid"):
            Path(f"/proc/{child}/{kind}_map").write_text(f"0 0 {IDS}\n", encoding="ascii")
        outside.send(b"mapped")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())

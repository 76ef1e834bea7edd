"""Gives up root and every capability, for good."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from flowstream.errors import FlowstreamError, UsageError

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
# To the kernel, (uid_t)-1 is "leave it as it is".
_LARGEST_ID = 2**32 - 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class User(NamedTuple):
    """Whom the agent becomes."""

    uid: int
    gid: int


def find_user(name: str) -> User:
    """Look up a user by name or number; UsageError when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if name.isdecimal() and int(name) <= _LARGEST_ID:
            # A container needs no entry for the user that it runs as.
            return User(int(name), int(name))
        raise UsageError(f"--user: there is no user {name!r} on this host") from None
    return User(entry.pw_uid, entry.pw_gid)


def give_up(user: User) -> None:
    """Become ``user`` (when root and allowed to) and drop every capability.

    Afterwards nothing that is executed can gain privileges either. Must run
    before other threads exist: Linux keeps capabilities per thread. Where
    CAP_SETUID or CAP_SETGID are missing, as in some containers, that part of the
    identity stays: root in name only. Raises FlowstreamError when any capability
    is left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0 and user.uid != 0:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
        with contextlib.suppress(PermissionError):
            os.setresuid(user.uid, user.uid, user.uid)
    _clear_capabilities(libc)
    held = _held()
    if held:
        raise FlowstreamError(f"capabilities {held:#x} could not be given up")


def _clear_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise FlowstreamError(f"giving up capabilities: {os.strerror(number)}")


def _held() -> int:
    """Capabilities of any thread, effective or permitted."""
    mask = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("CapEff:", "CapPrm:")):
                mask |= int(line.split()[1], 16)
    return mask

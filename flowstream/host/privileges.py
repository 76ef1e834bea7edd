"""Drops root and capabilities, permanently."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import pwd
import signal
from pathlib import Path
from typing import Final, NamedTuple

from flowstream.errors import FlowstreamError, UsageError

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_KEYCTL_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
"""The number of the system call keyctl, which no C library has as a function."""
# The kernel takes (uid_t)-1 as "no change".
_LARGEST_ID = 2**32 - 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


OWN_USER: Final = "flowstream"
SHARED_USER: Final = "nobody"
"""Of other services too, which may signal each other's processes."""
CREATE_USER: Final = f"useradd --system --no-create-home --shell /usr/sbin/nologin {OWN_USER}"


class User(NamedTuple):
    """User and group that the agent becomes."""

    uid: int
    gid: int


def user_name(given: str | None) -> str:
    """Return the name of the user to become: the given one, or flowstream's, if it has one."""
    if given is not None:
        return given
    try:
        return pwd.getpwnam(OWN_USER).pw_name
    except KeyError:
        return SHARED_USER


def find_user(name: str) -> User:
    """Look up a user by name or number. Raises ``UsageError``."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if name.isdecimal() and int(name) <= _LARGEST_ID:
            # In a container the user may have no entry.
            return User(int(name), int(name))
        raise UsageError(f"--user: no user {name!r} on this host") from None
    return User(entry.pw_uid, entry.pw_gid)


def give_up(user: User) -> None:
    """Become ``user`` (if root and permitted) and drop every capability.

    Programs executed afterwards cannot gain privileges either, so securebits and the
    bounding set do not matter. The session's keyring is replaced, and other processes of
    ``user`` can neither trace this one nor take its descriptors.
    Must run before other threads exist: Linux keeps capabilities per thread. Without CAP_SETUID
    or CAP_SETGID, as in some containers, that part of the identity stays: root in name only.
    Raises ``FlowstreamError`` when any capability is left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _change(libc, user, 0)


def keep(user: User, capabilities: int) -> None:
    """Like ``give_up``, but keep those of ``capabilities`` (a mask) that this process has.

    The bounding set is emptied if that is permitted. Raises ``FlowstreamError`` when others
    are left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    # Up to the first that this kernel does not know, or none without CAP_SETPCAP.
    for number in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            break
    _change(libc, user, _held() & capabilities)


def call_process(name: str) -> None:
    """Give this thread a name for ps, at most 15 octets; the command line stays."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the thread that forked it ends.

    To be called once the process has its last user and capabilities: a change of them undoes it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _change(libc: ctypes.CDLL, user: User, capabilities: int) -> None:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _leave_keyring(libc)
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
        with contextlib.suppress(PermissionError):
            os.setresuid(user.uid, user.uid, user.uid)
    _set_capabilities(libc, capabilities)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    left = _held() & ~capabilities
    if left:
        raise FlowstreamError(f"capabilities {left:#x} could not be dropped")


def _leave_keyring(libc: ctypes.CDLL) -> None:
    """Replace the session's keyring: its possessor may use its keys, whatever the user.

    Errors are ignored: the kernel has no keyrings, or the container forbids the call.
    """
    number = _KEYCTL.get(platform.machine())
    if number is not None:
        libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> None:
    """Make ``mask`` the effective and permitted set, and the inheritable one empty."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)) != 0:
        number = ctypes.get_errno()
        raise FlowstreamError(f"dropping capabilities: {os.strerror(number)}")


def _held() -> int:
    """Return the capabilities of all threads, effective or permitted, as one mask."""
    mask = 0
    threads = [*Path("/proc/self/task").glob("*/status")]
    if not threads:
        raise FlowstreamError("/proc is not mounted: it tells which capabilities are left")
    for status in threads:
        for line in status.read_bytes().splitlines():
            if line.startswith((b"CapEff:", b"CapPrm:")):
                mask |= int(line.split()[1], 16)
    return mask

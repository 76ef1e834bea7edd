"""Restricts a process to a list of system calls, by libseccomp."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SONAME: Final = "libseccomp.so.2"
# seccomp.h of libseccomp 2.
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_MASKED_EQUAL: Final = 7
_UNKNOWN: Final = -1
_IN_MEMORY: Final = {
    ("s390x", "mmap"), ("s390x", "socket"), ("s390x", "socketpair"), ("s390x", "getsockopt"),
}  # fmt: skip
"""Machines and their calls whose arguments are in memory, where no filter sees them.

Source: old_mmap() in mm/mmap.c; socketcall(2), by which the C library calls sockets there.
"""


class Argument(NamedTuple):
    """Condition on an argument of a call: the one at ``place``, masked, is ``value``."""

    place: int
    value: int
    mask: int = 0xFFFFFFFF


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_: ClassVar[Any] = [
        ("arg", c_uint),
        ("op", c_int),
        ("datum_a", c_uint64),
        ("datum_b", c_uint64),
    ]


def allow_only(calls: Mapping[str, Sequence[Argument]]) -> str:
    """Refuse all other system calls with EPERM, for good; this sets no_new_privs.

    ``calls`` are the names of calls with the conditions of which one must hold; without
    any, all arguments are allowed, and so they are of calls with arguments in memory. Names
    that the library does not know are ignored.
    Returns "", or why the calls are not restricted: the library is missing, or the kernel
    refuses. OSError when the library does.
    """
    try:
        library = ctypes.CDLL(SONAME)
    except OSError as err:
        return str(err)
    library.seccomp_init.argtypes, library.seccomp_init.restype = [c_uint32], c_void_p
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [c_void_p]
    library.seccomp_syscall_resolve_name.argtypes = [c_char_p]
    library.seccomp_rule_add_array.argtypes = [c_void_p, c_uint32, c_int, c_uint, c_void_p]
    context = library.seccomp_init(_REFUSE)
    for name, conditions in calls.items():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            continue
        for arguments in _rules(visible(name, conditions, os.uname().machine)):
            _check(
                library.seccomp_rule_add_array(context, _ALLOW, number, len(arguments), arguments),
                name,
            )
    refused = library.seccomp_load(context)
    library.seccomp_release(context)
    return f"seccomp: {os.strerror(-refused)}" if refused else ""


def visible(name: str, conditions: Sequence[Argument], machine: str) -> Sequence[Argument]:
    """Return the conditions that a filter can check on a machine, a name of uname(2)."""
    return () if (machine, name) in _IN_MEMORY else conditions


def _rules(conditions: Sequence[Argument]) -> list[ctypes.Array[_Comparison]]:
    if not conditions:
        return [(_Comparison * 0)()]
    return [
        (_Comparison * 1)(_Comparison(each.place, _MASKED_EQUAL, each.mask, each.value))
        for each in conditions
    ]


def _check(result: int, name: str) -> None:
    if result and result != -errno.EDOM:  # a call of other architectures
        raise OSError(-result, f"seccomp: {name}: {os.strerror(-result)}")

"""libbpf by ctypes; no other module calls it.

Functions raise KernelError with the kernel's errno; callers add the remedy. ctypes
releases the GIL during a call, so a slow one (a map-in-map update waits for a
grace period) can run in a worker thread.

Source of numbers: linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel.structures import (
    LinkCreateOpts,
    LinkInfo,
    MapCreateOpts,
    MapInfo,
    ProgInfo,
    ProgLoadOpts,
    TestRunOpts,
)

SONAME = "libbpf.so.1"

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_PROG_TYPE_SCHED_CLS = 3
BPF_PROG_TYPE_XDP = 6
BPF_LINK_TYPE_XDP = 6
BPF_LINK_TYPE_TCX = 11
BPF_XDP = 37  # enum bpf_attach_type
BPF_TCX_INGRESS = 46
BPF_TCX_EGRESS = 47
BPF_F_BEFORE = 1 << 3
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_NO_PREALLOC = 1
MAP_TYPE_HASH = 1
MAP_TYPE_ARRAY = 2
MAP_TYPE_PERCPU_ARRAY = 6
MAP_TYPE_ARRAY_OF_MAPS = 12
MAP_TYPE_RINGBUF = 27

Info = TypeVar("Info", MapInfo, ProgInfo, LinkInfo)

LICENSE = b"Dual BSD/GPL"
MOST_TCX = 63
"""Programs of one direction of an interface (bpf_mprog_max(), linux/bpf_mprog.h)."""
LOG_SIZE = 1 << 20


@cache
def library() -> ctypes.CDLL:
    """Return libbpf, loaded on first use; KernelError when the host has none."""
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as err:
        raise KernelError(f"{SONAME} is missing: install libbpf1 ({err})") from err
    # It would print to standard error; errors become exceptions.
    lib.libbpf_set_print(None)
    lib.bpf_map_create.argtypes = [
        c_int, c_char_p, c_uint32, c_uint32, c_uint32, POINTER(MapCreateOpts)
    ]  # fmt: skip
    lib.bpf_prog_load.argtypes = [
        c_int, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(ProgLoadOpts)
    ]  # fmt: skip
    lib.bpf_link_create.argtypes = [c_int, c_int, c_int, POINTER(LinkCreateOpts)]
    lib.bpf_link_update.argtypes = [c_int, c_int, c_void_p]
    numbers = POINTER(c_uint32)
    lib.bpf_prog_query.argtypes = [c_int, c_int, c_uint32, numbers, numbers, numbers]
    lib.bpf_map_lookup_elem.argtypes = [c_int, c_void_p, c_void_p]
    lib.bpf_map_update_elem.argtypes = [c_int, c_void_p, c_void_p, c_uint64]
    lib.bpf_map_delete_elem.argtypes = [c_int, c_void_p]
    batch: list[Any] = [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p]
    lib.bpf_map_lookup_batch.argtypes = batch
    lib.bpf_map_lookup_and_delete_batch.argtypes = batch
    lib.bpf_prog_test_run_opts.argtypes = [c_int, POINTER(TestRunOpts)]
    lib.bpf_link_detach.argtypes = [c_int]
    lib.bpf_obj_pin.argtypes, lib.bpf_obj_get.argtypes = [c_int, c_char_p], [c_char_p]
    lib.bpf_obj_get_info_by_fd.argtypes = [c_int, c_void_p, POINTER(c_uint32)]
    lib.bpf_prog_get_fd_by_id.argtypes = [c_uint32]
    lib.bpf_xdp_query_id.argtypes = [c_int, c_int, POINTER(c_uint32)]
    return lib


def check(result: int, doing: str) -> int:
    """Return ``result``, or raise KernelError with errno when it is negative."""
    if result < 0:
        errno = -result if result != -1 else ctypes.get_errno()
        raise KernelError(f"{doing}: {os.strerror(errno)}", errno)
    return result


@cache
def possible_cpus() -> int:
    """Return the number of possible CPUs: a per-CPU map has a value of each for every key."""
    return check(library().libbpf_num_possible_cpus(), "reading the number of possible CPUs")


def prog_load(
    name: str, code: bytes, flags: int = 0, ifindex: int = 0, kind: int = BPF_PROG_TYPE_XDP
) -> int:
    """Load a program of type ``kind`` (enum bpf_prog_type) and return its descriptor.

    ``ifindex`` other than 0 loads it into that interface's hardware (offload).
    KernelError contains the end of the verifier's log when it refuses the program.
    """
    lib = library()
    count = len(code) // 8
    options = ProgLoadOpts(prog_flags=flags, prog_ifindex=ifindex)
    if kind == BPF_PROG_TYPE_XDP:
        options.expected_attach_type = BPF_XDP

    def load() -> int:
        return int(
            lib.bpf_prog_load(kind, name.encode()[:15], LICENSE, code, count, byref(options))
        )

    fd = load()
    if fd >= 0:
        return fd
    errno = -fd if fd != -1 else ctypes.get_errno()
    # Again, with the verifier's log: a log would make every load slower. Where the log is too
    # small for all of it, the error of this load is ENOSPC, whatever it would be without one.
    log = ctypes.create_string_buffer(LOG_SIZE)
    options.log_level, options.log_size = 1, LOG_SIZE
    options.log_buf = ctypes.cast(log, c_void_p)
    fd = load()
    if fd >= 0:
        return fd
    lines = log.value.decode(errors="replace").strip().splitlines()
    refusal = f"; the verifier says:\n{chr(10).join(lines[-12:])}" if lines else ""
    raise KernelError(f"loading program {name}: {os.strerror(errno)}{refusal}", errno)


_KINDS: Final = {MapInfo: "bpf-map", ProgInfo: "bpf-prog", LinkInfo: "bpf-link"}
"""The kernel's name of the anonymous inode behind a descriptor."""


def object_info(kind: type[Info], fd: int) -> Info:
    """Describe the map, program or link behind ``fd``; LayoutError when it is none.

    BPF_OBJ_GET_INFO_BY_FD would fill any structure with what any object says, so
    the kind of descriptor is checked first.
    """
    try:
        found = str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError as err:
        raise KernelError(f"descriptor {fd}: {err.strerror}", err.errno or 0) from err
    # A link that was created is "bpf_link", one that was opened by its pin "bpf-link".
    if (expected := _KINDS[kind]) not in found.replace("_", "-"):
        raise LayoutError(f"descriptor {fd} is {found}, not a {expected}")
    return described(kind, fd)


def described(kind: type[Info], fd: int) -> Info:
    """Like ``object_info``, where the caller knows what kind of object it is."""
    info = kind()
    size = c_uint32(ctypes.sizeof(kind))
    done = library().bpf_obj_get_info_by_fd(fd, byref(info), byref(size))
    check(done, f"describing descriptor {fd}")
    return info


def compare(what: str, field: str, found: object, expected: object) -> None:
    """LayoutError when an object behind a descriptor is not as expected."""
    if found != expected:
        raise LayoutError(f"{what}: its descriptor has {field} {found}, expected {expected}")


def prog_info(fd: int) -> tuple[int, str]:
    """Id and name of the program behind ``fd``, which is one."""
    info = described(ProgInfo, fd)
    return info.id, info.name.decode(errors="replace")


def attached_program(ifindex: int) -> tuple[int, str] | None:
    """Id and name of the XDP program on an interface; None when there is none."""
    found = c_uint32(0)
    check(library().bpf_xdp_query_id(ifindex, 0, byref(found)), "querying the interface's program")
    if not found.value:
        return None
    fd = library().bpf_prog_get_fd_by_id(found.value)
    if fd < 0:
        return found.value, "?"
    try:
        return prog_info(fd)
    finally:
        os.close(fd)


def tcx_programs(ifindex: int, attach_type: int) -> list[int]:
    """Ids of the programs on one direction of an interface, in the order in which they run.

    ``attach_type`` is BPF_TCX_INGRESS or BPF_TCX_EGRESS. Needs CAP_NET_ADMIN. KernelError,
    with EINVAL before Linux 6.6.
    """
    found, count = (c_uint32 * MOST_TCX)(), c_uint32(MOST_TCX)
    done = library().bpf_prog_query(ifindex, attach_type, 0, None, found, byref(count))
    check(done, "querying the interface's TCX programs")
    return list(found[: count.value])

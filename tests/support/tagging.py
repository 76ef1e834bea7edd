"""Programs of TCX links that change packets, as VLAN devices and busy routers do."""

from __future__ import annotations

import contextlib
import os
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flowstream.kernel import libbpf
from support.bytecode import instruction, returning
from support.tcx import attach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hosts import Hosts
    from support.net import Interface

# linux/bpf.h: enum bpf_func_id
_VLAN_PUSH, _VLAN_POP, _SET_CE = 18, 19, 97
C_TAG, S_TAG = 0x8100, 0x88A8
"""TPIDs of 802.1Q and 802.1ad."""


_KEEP: Final = instruction(0xBF, 6, 1)  # r6 = the packet
_PACKET: Final = instruction(0xBF, 1, 6)  # r1 = the packet
_NEXT: Final = returning(-1)  # TCX_NEXT


def _call(function: int) -> bytes:
    return _PACKET + instruction(0x85, number=function)


def _push(tpid: int, tci: int) -> bytes:
    (proto,) = struct.unpack("=H", struct.pack("!H", tpid))
    return (
        instruction(0xB7, 2, number=proto) + instruction(0xB7, 3, number=tci) + _call(_VLAN_PUSH)
    )


@contextlib.contextmanager
def attached(device: Interface, direction: int, code: bytes) -> Iterator[None]:
    """Run a program on packets of one direction: before others out, behind others in."""
    fd = libbpf.prog_load("test", code, kind=libbpf.BPF_PROG_TYPE_SCHED_CLS)
    try:
        link = attach(device, direction, fd, first=bool(direction))
    finally:
        os.close(fd)
    try:
        yield
    finally:
        os.close(link)


@contextlib.contextmanager
def tagged(hosts: Hosts, *tags: tuple[int, int]) -> Iterator[None]:
    """Let both hosts send in a VLAN: ``tags`` are TPID and TCI, the innermost first.

    As a VLAN device does it: the host's stack does not see the tags.
    """
    push = _KEEP + b"".join(_push(*tag) for tag in tags) + _NEXT
    pop = _KEEP + _call(_VLAN_POP) * len(tags) + _NEXT
    with ExitStack() as stack:
        for host in (hosts.observed, hosts.far):
            stack.enter_context(attached(host.device, 1, push))
            stack.enter_context(attached(host.device, 0, pop))
        yield


@contextlib.contextmanager
def congested(device: Interface) -> Iterator[None]:
    """Mark ECN-capable packets that go out of the device (RFC 3168: CE)."""
    with attached(device, 1, _KEEP + _call(_SET_CE) + _NEXT):
        yield

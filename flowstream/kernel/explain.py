"""Why an interface cannot be attached to, and the remedy.

Needs no privileges, though with them (CAP_SYS_ADMIN) it knows the name of a program that
holds an interface. Netlink and /proc tell the rest.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from flowstream.errors import KernelError
from flowstream.kernel import features, libbpf
from flowstream.kernel.link import NO_NATIVE, TAKEN, Mode
from flowstream.kernel.stages import Stage

if TYPE_CHECKING:
    from flowstream.errors import AttachError


def explained(err: AttachError, interface: str, if_index: int) -> KernelError:
    """Return the error with the interface and the remedy.

    The calling thread must be in the interface's network namespace; ``if_index`` is the
    index there.
    """
    if err.stage == Stage.LOADING:
        return KernelError(f"{err}{_loading(err)}", err.errno)
    if err.stage == Stage.ATTACHING:
        # The kernel says EINVAL of an index that does not exist.
        if err.errno == errno.EINVAL and _is_gone(if_index):
            return KernelError(f"{interface} is gone", errno.ENODEV)
        where = f"attaching to {interface} ({err.mode})"
        return KernelError(f"{where}: {_attaching(err, interface, if_index)}", err.errno)
    return err


def _loading(err: AttachError) -> str:
    missing = features.missing_capabilities()
    if err.errno in (errno.EPERM, errno.EACCES) and missing:
        return f"; needs root or {', '.join(missing)}"
    if err.mode == Mode.OFFLOAD:
        return "; the device cannot run XDP programs: use --mode native"
    return ""


def _is_gone(if_index: int) -> bool:
    try:
        socket.if_indextoname(if_index)
    except OSError:
        return True
    return False


def _attaching(err: AttachError, interface: str, if_index: int) -> str:
    if err.errno in TAKEN:
        return _held(interface, if_index)
    if err.errno in NO_NATIVE and err.mode == Mode.NATIVE:
        return (
            "the driver has no native XDP (or not with this MTU or these queues): "
            "use --mode generic"
        )
    if err.errno in NO_NATIVE and err.mode == Mode.OFFLOAD:
        return "the device cannot run XDP programs: use --mode native"
    if err.errno == errno.EPERM:
        return "needs root or CAP_BPF and CAP_NET_ADMIN"
    return os.strerror(err.errno) if err.errno else str(err)


def _held(interface: str, if_index: int) -> str:
    try:
        held = libbpf.attached_program(if_index)
    except KernelError:
        held = None
    program = f"program {held[1]} (id {held[0]})" if held else "another XDP program"
    return (
        f"{program} is already there: stop its owner, or, if it has none, "
        f"remove it by: ip link set dev {interface} xdp off"
    )

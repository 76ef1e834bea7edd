"""Why an interface cannot be attached to, and the remedy.

Needs no privileges, though with them (CAP_SYS_ADMIN) it knows the name of a program that
holds an interface. Netlink and /proc tell the rest.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from flowstream.errors import KernelError
from flowstream.kernel import libbpf
from flowstream.kernel.link import NO_NATIVE, TAKEN, Mode
from flowstream.kernel.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.errors import AttachError
    from flowstream.kernel.target import Target

_NO_FILTERS: Final = (
    "this kernel has no clsact qdiscs, or no BPF filters for them: modprobe -a sch_ingress cls_bpf"
)


def explained(
    err: AttachError, target: Target, missing: Sequence[str], *, is_inside: bool = True
) -> KernelError:
    """Return the error with the interface and the remedy.

    ``missing`` are the capabilities that the process lacked that was to attach.
    ``is_inside``: the calling thread is in the network namespace of the interface.
    """
    interface = target.interface
    if err.stage == Stage.LOADING:
        return KernelError(f"{err}{_loading(err, missing)}", err.errno)
    if err.stage == Stage.ATTACHING:
        if err.errno == errno.ENODEV:
            return KernelError(f"{interface} is gone", errno.ENODEV)
        held = _holder(target.if_index) if is_inside else None
        where = f"attaching to {interface} ({err.mode})"
        return KernelError(f"{where}: {_attaching(err, interface, held)}", err.errno)
    return KernelError(f"attaching to {interface}: {err}", err.errno)


def _loading(err: AttachError, missing: Sequence[str]) -> str:
    if err.errno in (errno.EPERM, errno.EACCES) and missing:
        return f"; needs root or {', '.join(missing)}"
    if err.mode == Mode.OFFLOAD:
        return "; the device cannot run XDP programs: use --mode native"
    return ""


def named(held: tuple[int, str] | None) -> str:
    """What to call an XDP program, given by id and name; None where it is not known.

    Without the privilege to know its name that is "?".
    """
    if held is None:
        return "another XDP program"
    number, name = held
    return f"another XDP program (id {number})" if name == "?" else f"program {name} (id {number})"


def is_own(name: str) -> bool:
    """Whether an XDP program called ``name`` is one of flowstream's."""
    return name in ("xdp_flow", "count_ipv4")


def removal(name: str, interface: str) -> str:
    """How to take the program called ``name`` off an interface."""
    if name == "xdp_flow":
        return "stop its agent, or, if it has none: flowstream detach DIR, with the DIR of --pin"
    return f"stop its owner, or, if it has none, remove it by: ip link set dev {interface} xdp off"


def _attaching(err: AttachError, interface: str, held: tuple[int, str] | None) -> str:
    if err.mode == Mode.CLSACT:
        return _NO_FILTERS if err.errno == errno.ENOENT else str(err)
    if err.mode == Mode.TCX:
        return _attaching_tcx(err, interface)
    if err.errno in TAKEN:
        return (
            f"{named(held)} is already there: use --hook tcx to observe beside it, or "
            f"{removal(held[1] if held else '', interface)}"
        )
    if err.errno in NO_NATIVE and err.mode == Mode.NATIVE:
        return (
            "the driver has no native XDP (or not with this MTU or these queues): "
            "use --mode generic"
        )
    if err.errno in NO_NATIVE and err.mode == Mode.OFFLOAD:
        return "the device cannot run XDP programs: use --mode native"
    return _other(err)


def _attaching_tcx(err: AttachError, interface: str) -> str:
    if err.errno == errno.ERANGE:
        return f"no more programs can be attached there: bpftool net show dev {interface}"
    return _other(err)


def _other(err: AttachError) -> str:
    if err.errno == errno.EPERM:
        return "needs root or CAP_BPF and CAP_NET_ADMIN"
    return os.strerror(err.errno) if err.errno else str(err)


def _holder(if_index: int) -> tuple[int, str] | None:
    try:
        return libbpf.attached_program(if_index)
    except KernelError:
        return None

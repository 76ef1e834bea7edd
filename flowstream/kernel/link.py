"""Attaches programs by bpf_link: the kernel detaches them with the last descriptor."""

from __future__ import annotations

import enum
import errno
import os
import socket
from ctypes import byref, c_uint32
from typing import Final, Self

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.closing import Closing
from flowstream.errors import AttachError, KernelError
from flowstream.kernel import libbpf, structures
from flowstream.kernel.stages import Stage


class Hook(enum.StrEnum):
    """Where in the kernel a program runs: a program is written for one of them."""

    XDP = "xdp"
    TC = "tc"


class Mode(enum.StrEnum):
    """How a program is attached. AUTO is native XDP, else generic.

    TCX is a link at the TC hook (Linux 6.6), CLSACT a filter there, on earlier kernels.
    """

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"
    TCX = "tcx"
    CLSACT = "clsact"

    @property
    def hook(self) -> Hook:
        """The hook that it is a way of attaching to."""
        return Hook.TC if self in (Mode.TCX, Mode.CLSACT) else Hook.XDP


# linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_HW_MODE
_FLAGS: Final = {Mode.GENERIC: 1 << 1, Mode.NATIVE: 1 << 2, Mode.OFFLOAD: 1 << 3}
_TCX: Final = {INGRESS: libbpf.BPF_TCX_INGRESS, EGRESS: libbpf.BPF_TCX_EGRESS}
# EEXIST: another program is attached in another mode.
TAKEN: Final = frozenset({errno.EBUSY, errno.EEXIST})
"""Errors of an interface that has another program."""
# Drivers differ: veth returns ENOSPC when its peer has more queues.
NO_NATIVE: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM}
)
"""Errors of a driver that cannot run the program."""
_IN_ANY_MODE: Final = TAKEN | {errno.EPERM, errno.ENODEV}
"""Errors that no other mode avoids."""


def interface_index(name: str) -> int:
    """Index of an interface; KernelError that lists the existing ones when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as err:
        text = f"no interface {name!r}; there are: {interface_names()}"
        raise KernelError(text, errno.ENODEV) from err


def interface_names() -> str:
    """Names of the interfaces of this network namespace, for messages."""
    return ", ".join(sorted(name for _, name in socket.if_nameindex()))


def mode_of(index: int, program_id: int) -> Mode | None:
    """Mode in which a program runs on interface ``index``; None when it does not run there.

    The index is one of the calling thread's network namespace.
    """
    for mode, flag in _FLAGS.items():
        found = c_uint32(0)
        result = libbpf.library().bpf_xdp_query_id(index, flag, byref(found))
        if result == -errno.ENODEV:
            return None
        libbpf.check(result, "querying the interface's program")
        if found.value == program_id:
            return mode
    return None


def runs_by_tcx(index: int, program_id: int, direction: int) -> bool:
    """Whether a TCX link runs a program on interface ``index`` in this direction.

    The index is one of the calling thread's network namespace. Needs CAP_NET_ADMIN.
    """
    try:
        return program_id in libbpf.tcx_programs(index, _TCX[direction])
    except KernelError as err:
        if err.errno == errno.ENODEV:
            return False
        raise


class Link(Closing):
    """A program attached to interface ``index``, until it is closed or the process ends.

    ``mode`` is the mode in force; ``direction`` is EGRESS by Mode.TCX alone. Programs of
    other TCX links run after this one. Raises AttachError. A context manager; closing twice
    is harmless. The kernel keeps the program there while any process has a descriptor.
    """

    not_first = ""
    """Which programs run before it: none."""

    def __init__(self, program_fd: int, index: int, mode: Mode, direction: int = INGRESS) -> None:
        self.index = index
        tries = (Mode.NATIVE, Mode.GENERIC) if mode is Mode.AUTO else (mode,)
        for self.mode in tries:
            result = _create(program_fd, index, self.mode, direction)
            if result >= 0 or -result in _IN_ANY_MODE:
                break
        if result < 0:
            raise _refused(errno.ENODEV if _is_gone(index) else -result, self.mode)
        self.fd: int = result

    @classmethod
    def from_fd(cls, fd: int, index: int, mode: Mode, direction: int = INGRESS) -> Self:
        """Use the link behind ``fd``, which must be one of that hook and interface ``index``.

        The kernel does not report the mode of an XDP link: the caller states it.
        Raises LayoutError that names the difference, AttachError when the interface is
        gone. Owns ``fd`` from the call on, also when it raises.
        """
        link = cls.__new__(cls)
        link.fd, link.index, link.mode = fd, index, mode
        try:
            _compare(libbpf.object_info(structures.LinkInfo, fd), index, mode, direction)
        except BaseException:
            link.close()
            raise
        return link

    @classmethod
    def take_over(
        cls, fd: int, program_fd: int, index: int, mode: Mode, direction: int = INGRESS
    ) -> Self:
        """Replace the program of the link behind ``fd``, which stays the caller's.

        In one step: every packet is seen by the former program or by the new one. The
        result has a descriptor of its own of the same link. Raises LayoutError where it is
        no link of that hook and interface ``index``, AttachError when the kernel refuses or
        the interface is gone (ENODEV).
        """
        # A descriptor of another BPF object could look like a link here; the kernel then
        # refuses the update.
        info = libbpf.described(structures.LinkInfo, fd)
        _compare(info, index, mode, direction)
        link = cls.__new__(cls)
        # Before: nothing may fail once the link has the new program.
        link.fd, link.index, link.mode = _duplicate(fd), index, mode
        result = libbpf.library().bpf_link_update(fd, program_fd, None)
        if result < 0:
            link.close()
            raise _refused(-result, mode)
        return link

    def detach(self) -> None:
        """Detach whoever else holds the link, at once; harmless twice. Needs no privilege."""
        if self.fd >= 0:
            libbpf.check(libbpf.library().bpf_link_detach(self.fd), "detaching")
            self.close()

    def let_go(self) -> None:
        """Do as ``close``."""
        self.close()

    def close(self) -> None:
        """Detach, unless another descriptor holds the link; harmless twice."""
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


def number_of(link_fd: int) -> int:
    """Return the kernel's number of a link, which no other link gets."""
    return int(libbpf.described(structures.LinkInfo, link_fd).id)


def hook_of(info: structures.LinkInfo) -> Hook:
    """Return the hook of a link; LayoutError when it is another one's."""
    if info.type == libbpf.BPF_LINK_TYPE_TCX:
        return Hook.TC
    libbpf.compare("link", "type", info.type, libbpf.BPF_LINK_TYPE_XDP)
    return Hook.XDP


def direction_of(info: structures.LinkInfo) -> int:
    """Return the direction of a link."""
    is_egress = info.type == libbpf.BPF_LINK_TYPE_TCX and info.attach_type == _TCX[EGRESS]
    return EGRESS if is_egress else INGRESS


def program_in_force(link_fd: int) -> int:
    """Return the id of the program that a link runs now, 0 once it has no interface.

    Needs no privileges. Another process can have replaced the program or detached the link.
    """
    info = libbpf.described(structures.LinkInfo, link_fd)
    return info.prog_id if info.ifindex else 0


def _create(program_fd: int, index: int, mode: Mode, direction: int) -> int:
    """Return the descriptor of a new link, or below 0 the kernel's error."""
    if mode is Mode.TCX:
        # Before no other one in particular: before all that are there.
        kind, flags = _TCX[direction], libbpf.BPF_F_BEFORE
    else:
        kind, flags = libbpf.BPF_XDP, _FLAGS[mode]
    options = structures.LinkCreateOpts(flags=flags)
    return int(libbpf.library().bpf_link_create(program_fd, index, kind, byref(options)))


def _compare(info: structures.LinkInfo, index: int, mode: Mode, direction: int) -> None:
    is_tcx = mode is Mode.TCX
    kind = libbpf.BPF_LINK_TYPE_TCX if is_tcx else libbpf.BPF_LINK_TYPE_XDP
    libbpf.compare("link", "type", info.type, kind)
    if is_tcx:
        libbpf.compare("link", "attach type", info.attach_type, _TCX[direction])
    if not info.ifindex:
        raise _refused(errno.ENODEV, mode)
    libbpf.compare("link", "interface index", info.ifindex, index)


def _is_gone(index: int) -> bool:
    """Whether there is no such interface: the kernel says EINVAL then, as of others."""
    try:
        socket.if_indextoname(index)
    except OSError as err:
        return err.errno in (errno.ENXIO, errno.ENODEV)
    return False


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as err:
        raise KernelError(f"duplicating a descriptor: {err.strerror}", err.errno or 0) from err


def _refused(number: int, mode: Mode) -> AttachError:
    text = f"attaching ({mode}): {os.strerror(number)}"
    return AttachError(text, number, stage=Stage.ATTACHING, mode=mode)

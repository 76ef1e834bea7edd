"""Attaches programs by bpf_link: the kernel detaches them with the last descriptor."""

from __future__ import annotations

import enum
import errno
import os
import socket
from ctypes import byref, c_uint32
from typing import Final, Self

from flowstream.closing import Closing
from flowstream.errors import AttachError, KernelError
from flowstream.kernel import libbpf, structures
from flowstream.kernel.stages import Stage


class Mode(enum.StrEnum):
    """How XDP runs a program. AUTO is native, else generic."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


# linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_HW_MODE
_FLAGS: Final = {Mode.GENERIC: 1 << 1, Mode.NATIVE: 1 << 2, Mode.OFFLOAD: 1 << 3}
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


class Link(Closing):
    """A program attached to interface ``index``, until it is closed or the process ends.

    ``mode`` is the mode in force. Raises AttachError. A context manager; closing twice is
    harmless. The kernel keeps the program there while any process has a descriptor.
    """

    def __init__(self, program_fd: int, index: int, mode: Mode) -> None:
        self.index = index
        tries = (Mode.NATIVE, Mode.GENERIC) if mode is Mode.AUTO else (mode,)
        for self.mode in tries:
            options = structures.LinkCreateOpts(flags=_FLAGS[self.mode])
            result = libbpf.library().bpf_link_create(
                program_fd, index, libbpf.BPF_XDP, byref(options)
            )
            if result >= 0 or -result in _IN_ANY_MODE:
                break
        if result < 0:
            raise _refused(errno.ENODEV if _is_gone(index) else -result, self.mode)
        self.fd: int = result

    @classmethod
    def from_fd(cls, fd: int, index: int, mode: Mode) -> Self:
        """Use the link behind ``fd``, which must be an XDP link on interface ``index``.

        The kernel does not report the mode of a link: the caller states it.
        Raises LayoutError that names the difference, AttachError when the interface is
        gone. Owns ``fd`` from the call on, also when it raises.
        """
        link = cls.__new__(cls)
        link.fd, link.index, link.mode = fd, index, mode
        try:
            _compare(libbpf.object_info(structures.LinkInfo, fd), index, mode)
        except BaseException:
            link.close()
            raise
        return link

    @classmethod
    def take_over(cls, fd: int, program_fd: int, index: int, mode: Mode) -> Self:
        """Replace the program of the link behind ``fd``, which stays the caller's.

        In one step: every packet is seen by the former program or by the new one. The
        result has a descriptor of its own of the same link. Raises LayoutError where it is
        no XDP link on interface ``index``, AttachError when the kernel refuses or the
        interface is gone (ENODEV).
        """
        # A descriptor of another BPF object could look like a link here; the kernel then
        # refuses the update.
        info = libbpf.described(structures.LinkInfo, fd)
        _compare(info, index, mode)
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

    def close(self) -> None:
        """Detach, unless another descriptor holds the link; harmless twice."""
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


def number_of(link_fd: int) -> int:
    """Return the kernel's number of a link, which no other link gets."""
    return int(libbpf.described(structures.LinkInfo, link_fd).id)


def program_in_force(link_fd: int) -> int:
    """Return the id of the program that a link runs now, 0 once it has no interface.

    Needs no privileges. Another process can have replaced the program or detached the link.
    """
    info = libbpf.described(structures.LinkInfo, link_fd)
    return info.prog_id if info.ifindex else 0


def _compare(info: structures.LinkInfo, index: int, mode: Mode) -> None:
    libbpf.compare("link", "type", info.type, libbpf.BPF_LINK_TYPE_XDP)
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

"""Attaches programs to interfaces by bpf_link: the kernel detaches them when the process ends."""

from __future__ import annotations

import enum
import errno
import os
import socket
from ctypes import byref
from typing import Self

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import libbpf


class Mode(enum.StrEnum):
    """How XDP runs a program. AUTO is native, else generic."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


# linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_HW_MODE
_FLAGS = {Mode.GENERIC: 1 << 1, Mode.NATIVE: 1 << 2, Mode.OFFLOAD: 1 << 3}


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


class Link(Closing):
    """A program attached to an interface, until it is closed or the process ends.

    ``mode`` is the mode in force. Raises KernelError with the remedy. A context
    manager; closing twice is harmless.
    """

    def __init__(self, program_fd: int, interface: str, mode: Mode) -> None:
        self.interface = interface
        self.index = interface_index(interface)
        tries = (Mode.NATIVE, Mode.GENERIC) if mode is Mode.AUTO else (mode,)
        for self.mode in tries:
            options = libbpf.LinkCreateOpts(flags=_FLAGS[self.mode])
            result = libbpf.library().bpf_link_create(
                program_fd, self.index, libbpf.BPF_XDP, byref(options)
            )
            if result >= 0 or -result in _IN_ANY_MODE:
                break
        if result < 0:
            raise KernelError(self._explain(-result), -result)
        self.fd: int = result

    @classmethod
    def from_fd(cls, fd: int, interface: str, index: int, mode: Mode) -> Self:
        """Use the link behind ``fd``, which must be an XDP link on interface ``index``.

        The kernel does not report name and mode of a link: the caller states them.
        Raises LayoutError that names the difference. Owns ``fd`` from the call on, also
        when it raises.
        """
        link = cls.__new__(cls)
        link.fd, link.interface, link.index, link.mode = fd, interface, index, mode
        try:
            info = libbpf.object_info(libbpf.LinkInfo, fd)
            libbpf.compare(f"link on {interface}", "type", info.type, libbpf.BPF_LINK_TYPE_XDP)
            libbpf.compare(f"link on {interface}", "interface index", info.ifindex, index)
        except BaseException:
            link.close()
            raise
        return link

    def _explain(self, number: int) -> str:
        where = f"attaching to {self.interface} ({self.mode})"
        # EEXIST: another program is attached in another mode.
        if number in (errno.EBUSY, errno.EEXIST):
            return f"{where}: {self._holder()}"
        if number in _NO_NATIVE and self.mode is Mode.NATIVE:
            return (
                f"{where}: the driver has no native XDP (or not with this MTU or these queues): "
                "use --mode generic"
            )
        if number in _NO_NATIVE and self.mode is Mode.OFFLOAD:
            return f"{where}: the device cannot run XDP programs: use --mode native"
        if number == errno.EPERM:
            return f"{where}: needs root or CAP_BPF and CAP_NET_ADMIN"
        return f"{where}: {os.strerror(number)}"

    def _holder(self) -> str:
        held = libbpf.attached_program(self.index)
        program = f"program {held[1]} (id {held[0]})" if held else "another XDP program"
        return (
            f"{program} is already there: stop its owner, or, if it has none, "
            f"remove it by: ip link set dev {self.interface} xdp off"
        )

    def close(self) -> None:
        """Detach; harmless twice."""
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


# Drivers differ: veth returns ENOSPC when its peer has more queues.
_NO_NATIVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE, errno.ENOSPC, errno.ENOMEM}
# Errors that no other mode avoids.
_IN_ANY_MODE = {errno.EBUSY, errno.EEXIST, errno.EPERM, errno.ENODEV}

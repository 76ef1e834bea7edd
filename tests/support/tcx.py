"""Programs of others by TCX links."""

from __future__ import annotations

import os
from ctypes import byref
from typing import TYPE_CHECKING, Final

from flowstream.kernel import libbpf, structures
from support.tc import NEXT, CountingProgram

if TYPE_CHECKING:
    from support.net import Interface

DROP: Final = 2
"""TCX_DROP (linux/bpf.h)."""
ATTACH_TYPES: Final = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
"""By direction."""


def attach(device: Interface, direction: int, program_fd: int, *, first: bool) -> int:
    """Return a link: behind all programs that are there, or before them."""
    options = structures.LinkCreateOpts(flags=libbpf.BPF_F_BEFORE if first else 0)
    with device.namespace.entered():
        made = libbpf.library().bpf_link_create(
            program_fd, device.index, ATTACH_TYPES[direction], byref(options)
        )
    return libbpf.check(made, "attaching another program")


class OtherProgram(CountingProgram):
    """On an interface in one direction: behind all that are there, or ``first``."""

    def __init__(
        self, device: Interface, direction: int, verdict: int = NEXT, *, first: bool = False
    ) -> None:
        super().__init__(verdict)
        self._link = attach(device, direction, self.fd, first=first)

    def close(self) -> None:
        """Detach and release everything."""
        os.close(self._link)
        super().close()


def programs(device: Interface, direction: int) -> list[int]:
    """Ids of the TCX programs there, in their order."""
    with device.namespace.entered():
        return libbpf.tcx_programs(device.index, ATTACH_TYPES[direction])

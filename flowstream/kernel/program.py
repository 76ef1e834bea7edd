"""Loads a program for one interface and attaches it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import features, libbpf
from flowstream.kernel.link import Link, Mode
from flowstream.layouts.constants import PatchSlot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kernel.object import ProgramSpec

INGRESS = 0
"""flowDirection of everything that XDP sees (IPFIX 61)."""


class Program(Closing):
    """One load of an XDP program, with its maps and constants filled in.

    Raises KernelError, with the end of the verifier's log when it refuses the program.
    A context manager; closing twice is harmless. The caller keeps the maps.
    """

    def __init__(
        self,
        spec: ProgramSpec,
        map_fds: Mapping[str, int],
        *,
        if_index: int = 0,
        sampling: int = 1,
        offload: bool = False,
    ) -> None:
        frags = features.kernel_version() >= features.FRAGS and not offload
        code = spec.link(
            map_fds,
            {
                PatchSlot.IF_INDEX: if_index,
                PatchSlot.DIRECTION: INGRESS,
                PatchSlot.SAMPLING: sampling,
                PatchSlot.HAS_FRAGS: int(frags),
            },
        )
        flags = libbpf.BPF_F_XDP_HAS_FRAGS if frags else 0
        try:
            self.fd = libbpf.prog_load(spec.name, code, flags, if_index if offload else 0)
        except KernelError as err:
            raise KernelError(
                f"{err}{self._remedy(err.errno, offload=offload)}", err.errno
            ) from err
        self.id, self.name = libbpf.prog_info(self.fd)

    @classmethod
    def from_fd(cls, fd: int, spec: ProgramSpec) -> Self:
        """Use the program behind ``fd``, which must be an XDP program of the same name.

        Raises LayoutError that names the difference. Owns ``fd`` from the call on, also
        when it raises.
        """
        program = cls.__new__(cls)
        program.fd = fd
        try:
            info = libbpf.object_info(libbpf.ProgInfo, fd)
            program.id, program.name = info.id, info.name.decode(errors="replace")
            libbpf.compare(f"program {spec.name}", "type", info.type, libbpf.BPF_PROG_TYPE_XDP)
            libbpf.compare(f"program {spec.name}", "name", program.name, spec.name[:15])
        except BaseException:
            program.close()
            raise
        return program

    @staticmethod
    def _remedy(number: int, *, offload: bool) -> str:
        missing = features.missing_capabilities()
        if number in (errno.EPERM, errno.EACCES) and missing:
            return f"; needs root or {', '.join(missing)}"
        if offload:
            return "; the device cannot run XDP programs: use --mode native"
        return ""

    def attach(self, interface: str, mode: Mode) -> Link:
        """Attach to ``interface``; see Link."""
        return Link(self.fd, interface, mode)

    def close(self) -> None:
        """Unload, unless a link holds it; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

"""Loads a program for one interface, attaches it, runs it on given frames."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, NamedTuple

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import features, libbpf
from flowstream.kernel.link import Link, Mode
from flowstream.layouts.xdp_flow import PatchSlot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kernel.object import ProgramSpec

XDP_PASS = 2
INGRESS = 0
"""flowDirection of all that XDP sees (IPFIX 61)."""
MIN_FRAME = 14
"""BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header."""


class FrameRun(NamedTuple):
    """What BPF_PROG_TEST_RUN tells: the program's verdict, the frame after it, mean ns per run."""

    verdict: int
    frame: bytes
    duration_ns: int


class Program(Closing):
    """One load of an XDP program, with its maps and constants filled in.

    Raises KernelError; with the end of the verifier's log when it refuses. A
    context manager; closing twice is harmless. The maps stay the caller's.
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
                PatchSlot.PATCH_IF_INDEX: if_index,
                PatchSlot.PATCH_DIRECTION: INGRESS,
                PatchSlot.PATCH_SAMPLING: sampling,
                PatchSlot.PATCH_HAS_FRAGS: int(frags),
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

    def test_run(self, frame: bytes, repeat: int = 1) -> FrameRun:
        """Run the program on ``frame`` (at least 14 octets) ``repeat`` times, in the kernel."""
        out = ctypes.create_string_buffer(len(frame) + 256)
        options = libbpf.TestRunOpts(
            data_in=ctypes.cast(ctypes.c_char_p(frame), c_void_p),
            data_size_in=len(frame),
            data_out=ctypes.cast(out, c_void_p),
            data_size_out=len(out),
            repeat=repeat,
        )
        done = libbpf.library().bpf_prog_test_run_opts(self.fd, byref(options))
        libbpf.check(done, f"running program {self.name} on a frame of {len(frame)} octets")
        return FrameRun(options.retval, out.raw[: options.data_size_out], options.duration)

    def close(self) -> None:
        """Unload, unless a link still holds it; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

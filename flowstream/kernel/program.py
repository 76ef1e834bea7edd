"""Loads a program for one interface."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Self

from flowstream.closing import Closing
from flowstream.kernel import features, libbpf, structures
from flowstream.kernel.link import Hook, Mode
from flowstream.layouts.constants import PatchSlot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kernel.object import ProgramSpec
    from flowstream.kernel.target import Target

_KINDS: Final = {
    Hook.XDP: libbpf.BPF_PROG_TYPE_XDP,
    Hook.TC: libbpf.BPF_PROG_TYPE_SCHED_CLS,
}
"""The type of a hook's programs."""


class Program(Closing):
    """One load of a program, with its maps and the constants of a target filled in.

    ``spec`` is that of the target's hook, ``function`` the filter's, b"" for none.

    Raises KernelError, with the end of the verifier's log when it refuses the program.
    A context manager; closing twice is harmless. The caller keeps the maps.
    """

    def __init__(
        self,
        spec: ProgramSpec,
        map_fds: Mapping[str, int],
        target: Target,
        function: bytes = b"",
    ) -> None:
        offload = target.mode is Mode.OFFLOAD
        is_xdp = target.mode.hook is Hook.XDP
        frags = features.has_frags() and is_xdp and not offload
        code = spec.link(
            map_fds,
            {
                PatchSlot.IF_INDEX: target.record_index,
                PatchSlot.DIRECTION: target.direction,
                PatchSlot.SAMPLING: target.sampling,
                PatchSlot.HAS_FRAGS: int(frags),
                PatchSlot.RAW_IP: int(target.raw),
                PatchSlot.HAS_FILTER: int(bool(function)),
            },
            function,
        )
        flags = libbpf.BPF_F_XDP_HAS_FRAGS if frags else 0
        ifindex = target.if_index if offload else 0
        self.fd = libbpf.prog_load(spec.name, code, flags, ifindex, _KINDS[target.mode.hook])
        self.id, self.name = libbpf.prog_info(self.fd)

    @classmethod
    def from_fd(cls, fd: int, spec: ProgramSpec, hook: Hook = Hook.XDP) -> Self:
        """Use the program behind ``fd``, which must be one for ``hook``, of the same name.

        Raises LayoutError that names the difference. Owns ``fd`` from the call on, also
        when it raises.
        """
        program = cls.__new__(cls)
        program.fd = fd
        try:
            info = libbpf.object_info(structures.ProgInfo, fd)
            program.id, program.name = info.id, info.name.decode(errors="replace")
            libbpf.compare(f"program {spec.name}", "type", info.type, _KINDS[hook])
            libbpf.compare(f"program {spec.name}", "name", program.name, spec.name[:15])
        except BaseException:
            program.close()
            raise
        return program

    def close(self) -> None:
        """Unload, unless a link holds it; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

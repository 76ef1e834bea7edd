"""A link that an earlier run has left: its program runs, whether anybody looks or not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.closing import Closing
from flowstream.kernel import libbpf, structures
from flowstream.kernel.generation import link_pin
from flowstream.kernel.link import Hook, Mode, direction_of, hook_of, mode_of, runs_by_tcx

if TYPE_CHECKING:
    from flowstream.kernel.generation import Generation


class PinnedLink(Closing):
    """The link of attachment ``code`` of a generation. LayoutError when it is another object.

    ``fd`` is its descriptor, ``program_id`` the number of its program, ``hook`` and
    ``direction`` are what the program sees. Closing it, also twice, leaves the pin.
    """

    def __init__(self, generation: Generation, code: int) -> None:
        self.generation, self.code = generation, code
        self.path = f"{generation.path}/{link_pin(code)}"
        self.fd = generation.open(link_pin(code))
        try:
            info = self._info()
            self.hook, self.direction = hook_of(info), direction_of(info)
            direction = AttachmentKey.of_code(code).flow_direction
            libbpf.compare(f"pin {link_pin(code)}", "direction", self.direction, direction)
        except BaseException:
            self.close()
            raise
        self.program_id = info.prog_id

    def _info(self) -> structures.LinkInfo:
        return libbpf.object_info(structures.LinkInfo, self.fd)

    @property
    def if_index(self) -> int:
        """Index of its interface in the interface's namespace now; 0: the interface is gone."""
        return int(self._info().ifindex)

    def mode_here(self) -> Mode | None:
        """Attach mode, if its interface is in the calling thread's network namespace.

        Needs CAP_NET_ADMIN for a TCX link.
        """
        index = self.if_index
        if not index:
            return None
        if self.hook is Hook.XDP:
            return mode_of(index, self.program_id)
        return Mode.TCX if runs_by_tcx(index, self.program_id, self.direction) else None

    def detach(self) -> None:
        """Take its program off the interface, at once, and remove the pin; closes it.

        Needs no privilege. The program may still be running on another CPU.
        """
        result = libbpf.library().bpf_link_detach(self.fd)
        libbpf.check(result, f"detaching {self.path}")
        self.generation.unpin(link_pin(self.code))
        self.close()

    def close(self) -> None:
        """Release the descriptor; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

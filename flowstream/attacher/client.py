"""The agent's side: asks the attacher to attach.

attacher = Attacher(probe)
attachment = attacher.attach(Target.named("eth0", Mode.AUTO))

# At run time, from the event loop; other attachments go on meanwhile.
attachment = await loop.run_in_executor(None, attacher.attach, target)

# Another sampling rate, without missing a packet: the same link, a new program.
again = replace(target, sampling=100, mode=attachment.mode, link_fd=attachment.link_fd)
successor = attacher.attach(again)
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from flowstream.closing import Closing
from flowstream.kernel.attaching import attach_here

if TYPE_CHECKING:
    from flowstream.kernel.attaching import Attachable
    from flowstream.kernel.target import Target

Made = TypeVar("Made")


class Attacher(Closing, Generic[Made]):
    """Attaches a probe to interfaces, one at a time, from any thread."""

    def __init__(self, probe: Attachable[Made]) -> None:
        self._probe = probe
        self._turn = threading.Lock()

    def attach(self, target: Target) -> Made:
        """Load a program for ``target`` and attach it. Blocks: tens of milliseconds.

        KernelError names the interface and the remedy; its ``errno`` is the kernel's
        (ENODEV: the interface is gone).
        """
        with self._turn:
            return attach_here(self._probe, target)

    def close(self) -> None:
        """End the attacher; attachments stay. Harmless twice."""

"""What to attach to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from flowstream.accounting.attachment_key import EGRESS, INGRESS, AttachmentKey
from flowstream.kernel.link import Hook, Mode, interface_index

if TYPE_CHECKING:
    from flowstream.kernel.generation import LinkPin


@dataclass(frozen=True)
class Target:
    """One interface and direction, and how packets are read there.

    ``interface`` is its name, for messages alone. ``if_index`` is the kernel's index in the
    interface's network namespace; ``record_index`` is the one that records carry.
    ``mode`` tells the hook; ``direction`` EGRESS is of Mode.TCX or CLSACT alone.
    ``sampling``: one packet in so many is read, at random. ``raw``: packets have no
    Ethernet header. ``netns_fd`` is a descriptor of the interface's namespace, None for
    that of the creating process. ``link_fd`` is a descriptor of a link on the interface: it
    gets the new program instead of a new link, without missing a packet, and ``mode`` is
    then the mode that it has. ``earlier`` names the link's pin, if an earlier run has pinned
    it. Both descriptors stay the caller's.
    """

    interface: str
    if_index: int
    record_index: int
    mode: Mode = Mode.AUTO
    sampling: int = 1
    direction: int = INGRESS
    raw: bool = False
    netns_fd: int | None = None
    link_fd: int | None = None
    earlier: LinkPin | None = None

    def __post_init__(self) -> None:
        """ValueError when the hook does not see packets of the direction."""
        if self.direction == EGRESS and self.mode.hook is Hook.XDP:
            raise ValueError("XDP sees received packets only")

    @classmethod
    def named(
        cls,
        interface: str,
        mode: Mode = Mode.AUTO,
        sampling: int = 1,
        direction: int = INGRESS,
    ) -> Self:
        """Target of an interface's name in the calling thread's network namespace.

        KernelError that lists the existing ones when there is none.
        """
        index = interface_index(interface)
        return cls(interface, index, index, mode, sampling, direction)

    @property
    def key(self) -> AttachmentKey:
        """Key of its attachment."""
        return AttachmentKey(self.record_index, self.direction)

"""Runs whose maps and links stay in a directory of pins, without an agent around them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from flowstream.accounting.attachment_key import INGRESS
from flowstream.closing import Closing
from flowstream.host.namespaces import Namespace
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.generation import BOOKS, LinkPin
from flowstream.kernel.leftovers import open_earlier
from flowstream.kernel.link import Mode
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowstream.kernel.flow import FlowAttachment
    from flowstream.kernel.leftovers import Leftovers
    from support.net import Interface

ROOT = Owner(0, 0)
FIRST_EPOCH = 1_764_126_000_123_456_512
EPOCH_STEP = 1_024


class PinnedRun(Closing):
    """One run; ``earlier`` is what those before it have left. Closing it is a kill.

    ``attachment`` is the one that it has made last.
    """

    def __init__(self, place: Path, number: int = 0, *, max_flows: int = 1_009) -> None:
        self.epoch = FIRST_EPOCH + number * EPOCH_STEP
        with ExitStack() as stack:
            enter = stack.enter_context
            self.directory = enter(PinDirectory(str(place), ROOT))
            self.earlier = [enter(each) for each in open_earlier(self.directory)]
            self.generation = enter(self.directory.create(self.epoch))
            self.probe = enter(FlowProbe(max_flows=max_flows, pins=self.generation))
            with BooksMap() as books:
                self.generation.pin(BOOKS, books.fd)
            self._stack = stack.pop_all()

    def attach(
        self,
        interface: Interface,
        mode: Mode = Mode.AUTO,
        sampling: int = 1,
        direction: int = INGRESS,
        *,
        attach: Callable[[Target], FlowAttachment] | None = None,
    ) -> None:
        """Attach, or take over the link that an earlier run has there.

        ``attach`` does so in another process; without it, this one does.
        """
        with interface.namespace.entered():
            target = Target.named(interface.name, mode, sampling, direction)
            for earlier in self.earlier:
                for link in earlier.links.values():
                    if link.direction == direction and (found := link.mode_here()):
                        target = replace(
                            target,
                            mode=found,
                            link_fd=link.fd,
                            earlier=LinkPin(earlier.epoch, link.code),
                        )
            if attach is None:
                self.attachment = attach_here(self.probe, target)
        if attach is not None:
            with Namespace.open(interface.namespace.name) as place:
                self.attachment = attach(replace(target, netns_fd=place.fd))
        self._stack.enter_context(self.attachment)

    def close(self) -> None:
        """Release all descriptors; pins stay."""
        self._stack.close()


def emptied(leftovers: Leftovers) -> int:
    """Freeze and drain; return the packets of its flow records."""
    leftovers.freeze()
    return sum(int(batch["packets"].sum()) for _, batch in leftovers.drain(EndReason.FORCED))

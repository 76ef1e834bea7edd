"""Takes over the links that earlier runs left: the program changes between two packets."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import structlog

from flowstream.accounting.books import Facts
from flowstream.chain.predecessor import require_wanted
from flowstream.errors import KernelError
from flowstream.host import namespaces
from flowstream.kernel.generation import LinkPin
from flowstream.pipeline.probe import facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.accounting.run import Run
    from flowstream.chain.books import Books
    from flowstream.chain.predecessor import Predecessor
    from flowstream.config.hooks import AttachModes
    from flowstream.kernel.link import Mode
    from flowstream.kernel.pinned_link import PinnedLink
    from flowstream.kernel.target import Target
    from flowstream.pipeline.probe import Attaches, Attachment

log = structlog.get_logger()


class TakingOver:
    """An attacher that gives a link of an earlier run the new program, if there is one.

    ``books`` are those of this run, which know an attachment before a packet is seen. A
    target gets the link of its interface and direction, whose mode is one of ``wanted``.
    From any thread.
    """

    def __init__(
        self,
        attacher: Attaches,
        predecessors: Sequence[Predecessor],
        run: Run,
        books: Books,
        wanted: AttachModes,
    ) -> None:
        self._attacher, self._run, self._books = attacher, run, books
        self._wanted = wanted
        # The newest first: where a run was killed while it took links over, it may have
        # made one of its own.
        self._predecessors = [*reversed(predecessors)]
        self._turn = threading.Lock()
        self.fault: KernelError | None = None
        """The first refusal of a link that is there, of an interface that is, too."""

    def attach(self, target: Target) -> Attachment:
        """Attach to a target; see ``attacher.client``."""
        if target.link_fd is not None:
            return self._attacher.attach(target)
        with self._turn:
            before = self._run.known.get(target.key)
            self._books.expect(target.key, Facts(target.interface))
            try:
                attachment = self._attach(target)
            except BaseException:
                self._books.dismiss(target.key, before)
                raise
            previous = self._run.previous.get(target.key, 0)
            its = facts(attachment, target.interface, previous_epoch=previous)
            self._books.expect(target.key, its)
            return attachment

    def _attach(self, target: Target) -> Attachment:
        found = self._find(target)
        if found is None:
            return self._attacher.attach(target)
        predecessor, link, mode = found
        require_wanted(mode, self._wanted, link, target.interface)
        pin = LinkPin(predecessor.epoch, link.code)
        try:
            attachment = self._attacher.attach(
                dataclasses.replace(target, mode=mode, link_fd=link.fd, earlier=pin)
            )
        except KernelError as err:
            if link.if_index:
                self.fault = self.fault or err
            raise
        where = {"interface": target.interface, "direction": target.key.direction}
        if predecessor.runs_its_program(link):
            self._run.previous[target.key] = predecessor.epoch
            log.info("took_over", **where, previous_epoch=predecessor.epoch)
        else:
            log.warning(
                "program_replaced",
                **where,
                previous_epoch=predecessor.epoch,
                program_id=link.program_id,
            )
        predecessor.forget_link(link)
        return attachment

    def _find(self, target: Target) -> tuple[Predecessor, PinnedLink, Mode] | None:
        """Return the link that an earlier run has where the target is, and its mode."""
        if not any(each.links for each in self._predecessors):
            return None
        with namespaces.inside(target.netns_fd):
            for predecessor in self._predecessors:
                for link in predecessor.links:
                    point = (link.if_index, link.direction)
                    if point == (target.if_index, target.direction) and (mode := link.mode_here()):
                        return predecessor, link, mode
        return None

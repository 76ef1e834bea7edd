"""An earlier run: what it left in the kernel, and what its books say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.run import Known, Run
from flowstream.accounting.snapshot import Snapshot, TableState
from flowstream.chain.books import Books
from flowstream.errors import KernelError
from flowstream.kernel import clock
from flowstream.kernel.flow import PROGRAMS
from flowstream.kernel.link import Hook, Mode
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.accounting.books import Header
    from flowstream.config.hooks import AttachModes
    from flowstream.kernel.leftovers import Leftovers
    from flowstream.kernel.pinned_link import PinnedLink

_UNKNOWN = Known(Facts(""), attached=True, kernel=None)

log = structlog.get_logger()


class Predecessor:
    """An earlier run: what it left in the kernel, and its books."""

    def __init__(self, leftovers: Leftovers, header: Header, run: Run) -> None:
        self.leftovers, self._header, self.run = leftovers, header, run
        self.epoch = header.agent_epoch
        self.links: list[PinnedLink] = list(leftovers.links.values())
        for key, known in self.run.known.items():
            leftovers.rates.set(key, known.facts.sampling)
        # Nothing of it is written before an event loop runs.
        self.books = Books(leftovers.books, self._header, self.run)

    @property
    def prefix(self) -> str:
        """Prefix of its topics."""
        return self._header.topic_prefix

    @property
    def topics(self) -> list[str]:
        """Its topics."""
        return [f"{self.prefix}.{stream}" for stream in Stream]

    def forget_link(self, link: PinnedLink) -> None:
        """Note that a link is another run's."""
        self.links.remove(link)
        link.close()

    def require_modes(self, wanted: AttachModes) -> None:
        """KernelError where a link has another attach mode: before any is taken over."""
        for link in self.links:
            its = self._facts(link)
            # Killed before it noted its program, it did not note the mode either.
            if its.program_id and link.if_index and link.direction in wanted:
                require_wanted(Mode(its.mode), wanted, link, its.interface)

    def runs_its_program(self, link: PinnedLink) -> bool:
        """Whether a link had the program of this run, as far as its books say, or it missed some.

        Another process of the same user may have replaced it.
        """
        return self._facts(link).program_id in (0, link.program_id)

    def _facts(self, link: PinnedLink) -> Facts:
        return self.run.known.get(AttachmentKey.of_code(link.code), _UNKNOWN).facts

    def freeze(self) -> None:
        """Let nothing change any more in what it left; blocks.

        Links that were not taken over are detached: this run does not observe them. All
        predecessors first: a link's pin and its program may be of different runs.
        """
        while self.links:
            link = self.links.pop()
            its = self._facts(link)
            where = {"netns": its.netns} if its.netns else {}
            log.info(
                "earlier_link_detached",
                interface=its.interface,
                **where,
                direction=AttachmentKey.of_code(link.code).direction,
                link=link.path,
            )
            link.detach()

    def attachments(self) -> list[AttachmentKey]:
        """Attachments of which anything is known."""
        codes = map(AttachmentKey.of_code, self.leftovers.codes)
        return sorted({*self.run.known, *self.run.ledger.accounts(), *codes})

    def count_unsettled(self) -> None:
        """Count records that got a seq and have no outcome: they were in its memory."""
        for key, account in self.run.ledger.accounts().items():
            if account.unsettled > 0:
                account.doubt(RecordAmount(account.unsettled), terms.AGENT_KILLED)
            self.books.change(key)

    def count_residual(self) -> Amount:
        """Count the packets that are in no other count; return their sum.

        Only when nothing is left in the kernel, and every record has an outcome.
        """
        total = Amount()
        for key in self.attachments():
            account, counts = self.run.ledger.account(key), self.counts(key)
            spool = Amount(account.spool.packets, account.spool.l2_bytes)
            rest = counts.recorded.minus(account.amount).minus(spool)
            if min(rest) < 0:
                log.error("run_books_differ", agent_epoch=self.epoch, **rest._asdict())
                rest = Amount(*(max(each, 0) for each in rest))
            if rest != Amount():
                account.doubt(RecordAmount(0, *rest), terms.AGENT_KILLED)
                self.books.change(key)
                total = total.plus(rest)
        return total

    def counts(self, key: AttachmentKey) -> KernelCounts:
        """Return the kernel's counts of an attachment, exact once frozen."""
        known = self.run.known.get(key, _UNKNOWN)
        if known.attached and key.code in self.leftovers.codes:
            counts = self.leftovers.counters(key.code)
            return counts if known.kernel is None else counts.plus(known.kernel)
        return known.kernel or KernelCounts(Amount(), dict.fromkeys(terms.NO_FLOW, Amount()))

    def snapshot(self, key: AttachmentKey) -> Snapshot:
        """Return all counts of one attachment."""
        kernel = self.counts(key)
        facts = self.run.known.get(key, _UNKNOWN).facts
        name = facts.program_name or PROGRAMS[Hook.TC if key.flow_direction else Hook.XDP]
        return Snapshot(
            key=key,
            facts=msgspec.structs.replace(facts, program_name=name),
            time=clock.now(),
            kernel=kernel,
            account=self.run.ledger.account(key),
            table=TableState(0, self._header.max_flows, 0),
        )


def require_wanted(mode: Mode, wanted: AttachModes, link: PinnedLink, interface: str) -> None:
    """KernelError unless a link's attach mode is wanted for its direction; AUTO is any of XDP.

    It cannot be changed without a gap, or packets that both programs count.
    """
    modes = wanted[link.direction]
    if mode in modes or (mode.hook is Hook.XDP and Mode.AUTO in modes):
        return
    if mode.hook is Hook.TC:
        option = "--hook tcx"
    else:
        by_xdp = any(Mode(each).hook is Hook.XDP for each in modes)
        option = f"--mode {mode}" if by_xdp else "--hook xdp"
    raise KernelError(
        f"{link.path}: interface {interface} is observed in mode {mode}: "
        f"use {option}, or remove what is pinned: flowstream detach"
    )

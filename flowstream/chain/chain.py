"""What --pin keeps between runs: programs that go on, and the books of each run.

A run has a generation of pins with its books. It takes the links of the runs before it
over, so that no packet is missed, and closes those runs (``chain.predecessors``).
"""

from __future__ import annotations

import contextlib
import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from flowstream import __version__
from flowstream.accounting import books
from flowstream.accounting.run import Run
from flowstream.chain.books import Books
from flowstream.chain.predecessor import Predecessor
from flowstream.chain.taking_over import TakingOver
from flowstream.closing import Closing
from flowstream.errors import FlowstreamError, KernelError
from flowstream.kernel import earlier_books
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.flow import BUILD
from flowstream.kernel.generation import BOOKS, SHARED
from flowstream.kernel.leftovers import open_earlier
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.layouts import flow as layout

if TYPE_CHECKING:
    from flowstream.accounting.ledgers import Ledgers
    from flowstream.chain.predecessors import Predecessors
    from flowstream.config.run import RunConfig
    from flowstream.host.privileges import User
    from flowstream.kernel.leftovers import Leftovers
    from flowstream.pipeline.probe import Attaches

log = structlog.get_logger()


class Chain(Closing):
    """The runs before this one, and what this one leaves to the next.

    Needs the privileges of the moment to open ``config.pin``. KernelError, which names the
    remedy, where a run is there that this one cannot take over. Closing it, also twice,
    changes no pin, but removes those of a run that observed nothing.
    """

    def __init__(self, config: RunConfig, directory: str, user: User, run: Run) -> None:
        self._config, self._run = config, run
        self._taking_over: TakingOver | None = None
        with ExitStack() as stack:
            self._directory = stack.enter_context(PinDirectory(directory, Owner(*user)))
            self.predecessors = [
                found
                for each in open_earlier(self._directory)
                if (found := _predecessor(stack.enter_context(each), directory, user)) is not None
            ]
            for each in self.predecessors:
                each.require_modes(config.attach_modes)
            self.generation = stack.enter_context(self._directory.create(run.identity.agent_epoch))
            self._store = stack.enter_context(BooksMap())
            self.books = Books(self._store, self._header(), run)
            self._stack = stack.pop_all()

    def _header(self) -> books.Header:
        identity = self._run.identity
        return books.Header(
            version=books.VERSION,
            agent_version=__version__,
            agent_epoch=identity.agent_epoch,
            host_id=identity.host_id,
            host=identity.host,
            sampler_address=identity.sampler_address,
            topic_prefix=self._config.topic_prefix,
            program=BUILD,
            layouts=layouts(),
            max_flows=self._config.max_flows,
        )

    @property
    def topics(self) -> list[str]:
        """Topics of the runs before this one."""
        return [topic for each in self.predecessors for topic in each.topics]

    def join(self, ledgers: Ledgers) -> None:
        """Let the records of the runs before this one be counted."""
        for each in self.predecessors:
            ledgers.add(each.epoch, each.run.ledger)

    def taking_over(self, attacher: Attaches) -> TakingOver:
        """Return an attacher that takes links of earlier runs over. Pins the books.

        The probe has pinned its maps by now, and nothing is attached so far.
        """
        self.generation.pin(BOOKS, self._store.fd)
        self._taking_over = TakingOver(
            attacher, self.predecessors, self._run, self.books, self._config.attach_modes
        )
        return self._taking_over

    def require_taken_over(self) -> None:
        """Raise the KernelError of a link that could not be taken over: its chain would end."""
        if self._taking_over and self._taking_over.fault:
            raise self._taking_over.fault

    def leave(self, predecessors: Predecessors | None) -> None:
        """Write all books, for the next run: this one has ended.

        KernelError when pins of its programs are not there any more: those end with the process.
        """
        self.books.write()
        if predecessors:
            predecessors.write_books()
        path = self._directory.path
        attached = {key.code for key, known in self._run.known.items() if known.attached}
        if not attached:
            log.info("nothing_pinned", directory=path, reason="no interface was observed any more")
            return
        if attached - self._pinned_links():
            raise KernelError(
                f"{path}: pins of this run were removed: its programs end with it; "
                "start the agent again"
            )
        log.info(
            "pinned",
            directory=path,
            remedy=f"to end the observation: flowstream detach {path}",
        )

    def _pinned_links(self) -> set[int]:
        """Codes of the attachments whose programs go on."""
        try:
            return {*self.generation.codes("link")}
        except FileNotFoundError:
            # Of a directory that was removed.
            return set()

    def close(self) -> None:
        """Release everything, and the lock; harmless twice."""
        with contextlib.suppress(FlowstreamError, OSError):
            self._remove_unused()
        self._stack.close()

    def _remove_unused(self) -> None:
        """Remove the pins of a run that did not start: of the kernel's memory they take most."""
        if self.generation.fd >= 0 and not self._run.changes["attached"]:
            names = self.generation.names()
            if not names - {*SHARED, BOOKS}:
                self.generation.remove()


def layouts() -> str:
    """Name the layouts of a run's maps: equal for equal ones."""
    kinds = (layout.FLOW_KEY, layout.FLOW_VALUE, layout.FLOW_RECORD, layout.COUNTERS)
    return hashlib.sha256(repr([each.descr for each in kinds]).encode()).hexdigest()[:16]


def _predecessor(leftovers: Leftovers, directory: str, user: User) -> Predecessor | None:
    """Return the run that left them; None, and remove them, if it was closed."""
    remedy = f"remove what is pinned: flowstream detach {directory}"
    path = leftovers.generation.path
    try:
        ended = earlier_books.read(leftovers.books.items(), user)
        run = Run.restore(ended)
    except ValueError as err:
        raise KernelError(f"{path}: its books cannot be read: {err}; {remedy}") from err
    if (epoch := ended.header.agent_epoch) != leftovers.epoch:
        raise KernelError(f"{path}: its books are those of run {epoch}; {remedy}")
    if ended.header.closed:
        leftovers.remove()
        return None
    if (ended.header.program, ended.header.layouts) != (BUILD, layouts()):
        raise KernelError(
            f"{path}: left by flowstream {ended.header.agent_version}, whose program "
            f"{ended.header.program} has other layouts; {remedy}"
        )
    return Predecessor(leftovers, ended.header, run)

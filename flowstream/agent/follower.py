"""Follows the interfaces of a host: what is chosen is attached, whatever comes and goes.

    netlink → LinkMonitor → Follower → Attacher.attach → Agent.add, rename, remove

After any change the links that there are are compared with the attachments, so that no
change can be missed. Only one comparison runs at a time, and whatever may wait for the
kernel runs in a worker thread.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from flowstream.agent.waiting import within
from flowstream.errors import KernelError
from flowstream.kernel.link import program_in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowstream.accounting.tally import AttachmentKey
    from flowstream.agent.attaching import Attaching
    from flowstream.agent.places import Followed, Place
    from flowstream.agent.probe import Attachment
    from flowstream.host.links import LinkFacts

DEBOUNCE_S: Final = 0.003
"""How long changes may gather after the first: a new link is reported several times."""
SUSPECT_S: Final = 1.0
"""How long a detached program may be that of a link that goes."""
ALIVE_POLL_S: Final = 1.0
"""How often namespaces are checked for having gone: the kernel does not report it."""

log = structlog.get_logger()
_T = TypeVar("_T")


class Followable(Protocol):
    """The run that attachments are added to."""

    def __contains__(self, key: AttachmentKey) -> bool:
        """Whether there is an attachment, or one that is being removed."""

    def add(self, attachment: Attachment, netns: str = "") -> None:
        """Take in an attachment."""

    def rename(self, if_index: int, name: str) -> None:
        """Name an interface from now on."""

    async def remove(self, key: AttachmentKey) -> None:
        """Take out an attachment; return once it is emptied."""


class Follower:
    """Attaches to what ``chosen`` chooses among the links of ``places``.

    ``period_s``: how often attachments are checked for being in force. A stage of
    ``Agent.run``; what there is at the start is attached by ``begin``.
    """

    def __init__(
        self,
        agent: Followable,
        attaching: Attaching,
        places: Sequence[Place],
        chosen: Callable[[LinkFacts], bool],
        *,
        period_s: float,
    ) -> None:
        self._agent, self._attaching = agent, attaching
        self._places, self._chosen = list(places), chosen
        self._period_s = period_s
        self._removing: set[asyncio.Task[None]] = set()
        self._news, self._stopping = asyncio.Event(), asyncio.Event()
        self._idle = False
        self._alive_due = self._check_due = 0.0

    def choose(self, chosen: Callable[[LinkFacts], bool]) -> None:
        """Choose among the links by another rule from now on."""
        self._chosen = chosen
        self.wake()

    def wake(self) -> None:
        """Compare links and attachments, or end."""
        self._news.set()

    def begin(self, is_required: Callable[[LinkFacts], bool], is_over: Callable[[], bool]) -> None:
        """Attach to all that is there, before the event loop runs, until ``is_over``.

        KernelError for a required link that cannot be attached to; other failures are
        logged and tried again later.
        """
        for place, link in [*self._wanted()]:
            if is_over():
                return
            try:
                self._take(place, link, self._attaching.attach(place, link))
            except KernelError as err:
                if is_required(link):
                    raise
                self._attaching.failed(place, link, err)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until ``stopping`` is set and ``wake`` called."""
        self._stopping = stopping
        self._check_due = time.monotonic() + self._period_s
        self.wake()
        while not stopping.is_set():
            for place in self._places:
                self._watch(place)
            await within(self._pause(), self._news)
            await within(DEBOUNCE_S, stopping)
            self._news.clear()
            await self._compare()
        for place in self._places:
            asyncio.get_running_loop().remove_reader(place.monitor.fd)

    def _watch(self, place: Place) -> None:
        loop, fd = asyncio.get_running_loop(), place.monitor.fd

        def readable() -> None:
            # Until it is read: the loop would call again at once.
            loop.remove_reader(fd)
            self.wake()

        loop.add_reader(fd, readable)

    def _pause(self) -> float:
        """Seconds until there may be something to do without a change."""
        due = [self._check_due]
        if any(place.may_go for place in self._places):
            due.append(self._alive_due)
        due += [self._attaching.due(*wanted) for wanted in self._free()]
        return min(due) - time.monotonic()

    async def _compare(self) -> None:
        """Compare until nothing is left to do; attach to one link at a time."""
        await self._release_gone()
        attached = True
        while attached and not self._stopping.is_set():
            for place in self._places:
                await _in_thread(place.read)
            self._note_changes()
            await self._remove(self._leaving())
            attached = await self._attach_next()
        await self._check()

    async def _attach_next(self) -> bool:
        """Attach to one more link, if there is one; return whether it was tried."""
        wanted = [*self._wanted()]
        self._note_idle(any_wanted=bool(wanted))
        self._attaching.keep(wanted)
        for place, link in self._free():
            if self._attaching.due(place, link) > time.monotonic():
                continue
            try:
                attachment = await _in_thread(self._attaching.attach, place, link)
            except KernelError as err:
                self._attaching.failed(place, link, err)
            else:
                self._take(place, link, attachment)
            return True
        return False

    def _take(self, place: Place, link: LinkFacts, attachment: Attachment) -> None:
        if self._stopping.is_set():
            # The run detaches its attachments when it is told to stop.
            attachment.close()
            return
        place.follow(link, attachment)
        self._agent.add(attachment, place.namespace.label)
        log.info(
            "attached",
            **place.named(link),
            mode=str(attachment.mode),
            program=attachment.program.name,
            program_id=attachment.program.id,
        )

    def _wanted(self) -> Iterator[tuple[Place, LinkFacts]]:
        """Links that are chosen and have no attachment."""
        for place in self._places:
            for index, link in place.monitor.links().items():
                if index not in place.followed and self._chosen(link):
                    yield place, link

    def _free(self) -> list[tuple[Place, LinkFacts]]:
        """Wanted links, but for those whose former attachment is being removed."""
        return [
            (place, link)
            for place, link in self._wanted()
            if place.attachment_key(link) not in self._agent
        ]

    def _note_idle(self, *, any_wanted: bool) -> None:
        idle = not any_wanted and not any(place.followed for place in self._places)
        if idle and not self._idle:
            log.warning("no_interface_matches", remedy="flowstream check lists interfaces")
        self._idle = idle

    def _note_changes(self) -> None:
        for place in self._places:
            for its, now in place.changes():
                if now.name != its.link.name:
                    self._agent.rename(its.attachment.key.if_index, now.name)
                    log.info("interface_renamed", **place.named(now), before=its.link.name)
                if now.up != its.link.up:
                    log.info("interface_up" if now.up else "interface_down", **place.named(now))
                its.link = now

    def _leaving(self) -> Iterator[tuple[Place, Followed]]:
        """Attachments whose link went or is not chosen any more."""
        for place in self._places:
            for its in [*place.followed.values()]:
                if place.has_left(its):
                    log.info(
                        "interface_moved" if its.moved else "interface_gone",
                        **place.named(its.link),
                    )
                elif not self._chosen(its.link):
                    log.info("interface_left_out", **place.named(its.link))
                else:
                    continue
                yield place, its

    async def _remove(self, leaving: Iterable[tuple[Place, Followed]]) -> None:
        """Detach all of them, then empty each in its own time."""
        gone = [*leaving]
        # A link that moved can be attached to in its new namespace once it is free.
        await _in_thread(_detach, [its for _, its in gone])
        for place, its in gone:
            del place.followed[its.link.index]
            removal = asyncio.ensure_future(self._agent.remove(its.attachment.key))
            self._removing.add(removal)
            removal.add_done_callback(self._removed)

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._removing.discard(removal)
        if not removal.cancelled():
            removal.exception()  # it is a fault of the run already
        self.wake()

    async def _check(self) -> None:
        """Give up attachments whose program was replaced or detached by another process."""
        if time.monotonic() < self._check_due:
            return
        self._check_due = time.monotonic() + self._period_s
        for place in self._places:
            followed = [*place.followed.values()]
            running = await _in_thread(_programs_of, followed)
            replaced = [
                (its, program)
                for its, program in zip(followed, running, strict=True)
                if self._is_replaced(its, program) and not place.has_left(its)
            ]
            for its, program in replaced:
                log.warning("program_replaced", **place.named(its.link), program_id=program)
                self._attaching.displaced(place, its.link)
            await self._remove((place, its) for its, _ in replaced)

    def _is_replaced(self, its: Followed, program: int) -> bool:
        if program or its.suspect:
            return program != its.attachment.program.id
        its.suspect = True
        self._check_due = min(self._check_due, time.monotonic() + SUSPECT_S)
        return False

    async def _release_gone(self) -> None:
        """Close what keeps a namespace alive that has gone by name, path or process."""
        if time.monotonic() < self._alive_due:
            return
        self._alive_due = time.monotonic() + ALIVE_POLL_S
        for place in [*self._places]:
            if place.may_go and not place.namespace.alive():
                log.warning("namespace_gone", netns=place.namespace.label)
                self._places.remove(place)
                asyncio.get_running_loop().remove_reader(place.monitor.fd)
                await self._remove((place, its) for its in place.followed.values())
                place.close()

    def close(self) -> None:
        """Release the namespaces and what is attached; harmless twice."""
        for place in self._places:
            for its in place.followed.values():
                its.attachment.close()
            place.close()


async def _in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def _detach(followed: Sequence[Followed]) -> None:
    for its in followed:
        its.attachment.detach()


def _programs_of(followed: Sequence[Followed]) -> list[int]:
    return [program_in_force(its.attachment.link_fd) for its in followed]

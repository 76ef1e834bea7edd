"""Follows the interfaces of a host: what is chosen is attached, whatever comes and goes.

    netlink → LinkMonitor → Follower → Attacher.attach → Agent.add, rename, remove

After any change the links that there are are compared with the attachments, so that no
change can be missed. One comparison runs at a time; a thread waits for the kernel.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from flowstream.errors import FlowstreamError, KernelError
from flowstream.following.in_force import InForce
from flowstream.following.overlapping import Overlapping
from flowstream.following.places import links_by_label
from flowstream.following.resampling import Replaceable, Resampling
from flowstream.following.thread import OwnThread
from flowstream.host.selection import Selection
from flowstream.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.config.run import RunConfig
    from flowstream.following.attaching import Attaching
    from flowstream.following.places import Followed, Place
    from flowstream.host.links import LinkFacts
    from flowstream.pipeline.probe import Attachment

DEBOUNCE_S: Final = 0.003
"""How long changes may gather after the first: a new link is reported several times."""
_RESTART: Final = "restart the agent to observe a new one of this name"
_ALL_GONE: Final = (
    "all network namespaces of --netns are gone: start the agent again once one is there"
)
ALIVE_POLL_S: Final = 1.0
"""How often namespaces are checked for having gone: the kernel does not report it."""

log = structlog.get_logger()


class Followable(Replaceable, Protocol):
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
    """Attaches to what ``selection`` chooses among the links of ``places``.

    ``period_s``: how often attachments are checked for being in force. A stage of
    ``Agent.run``; what there is at the start is attached by ``begin``.
    """

    def __init__(
        self,
        agent: Followable,
        attaching: Attaching,
        places: Sequence[Place],
        selection: Selection,
        *,
        period_s: float,
    ) -> None:
        self._agent, self._attaching = agent, attaching
        self._places, self._selection, self._thread = list(places), selection, OwnThread()
        self._in_force, self._overlapping = InForce(period_s, agent, self._thread), Overlapping()
        self._resampling = Resampling(agent, attaching, self._places, self._thread)
        self._removing: set[asyncio.Task[None]] = set()
        self._news, self._stopping = asyncio.Event(), asyncio.Event()
        self._idle, self._alive_due = False, 0.0

    def configure(self, config: RunConfig) -> None:
        """Follow another configuration: interfaces, sampling rate, time between checks."""
        self._selection = Selection(config.interfaces, config.interface_kinds)
        self._attaching.sampling = config.sampling
        self._in_force.set_period(config.counters_period_s)
        try:
            self._selection.require_named(links_by_label(self._places))
        except FlowstreamError as err:
            log.warning("reload_doubtful", reason=str(err))
        self.wake()

    def wake(self) -> None:
        """Compare links and attachments, or end."""
        self._news.set()

    def begin(self, is_over: Callable[[], bool], continues: Callable[[], bool]) -> None:
        """Attach to all that is there, before the event loop runs, until ``is_over``.

        Those that the selection names come first, in its order. KernelError for one of them
        that cannot be attached to, unless the run ``continues`` another by then; other
        failures are logged and tried again later.
        """
        for place, link in sorted(self._wanted(), key=lambda each: self._selection.rank(each[1])):
            if is_over():
                return
            try:
                self._take(place, link, self._attaching.attach(place, link))
            except KernelError as err:
                if self._selection.named(link) and not continues():
                    raise
                self._attaching.failed(place, link, err)
        self._note_idle()
        self._overlapping.look(self._places)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until ``stopping`` is set and ``wake`` called; KernelError without a place."""
        self._stopping = stopping
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

        if place.answers:
            loop.add_reader(fd, readable)

    def _pause(self) -> float:
        """Seconds until there may be something to do without a change."""
        due = [self._in_force.due, *(place.due for place in self._places)]
        if any(place.may_go for place in self._places):
            due.append(self._alive_due)
        tries = (*self._free(), *self._resampling.outdated())
        return min([*due, *(self._attaching.due(*each) for each in tries)]) - time.monotonic()

    async def _compare(self) -> None:
        """Compare until nothing is left to do; attach to one link at a time."""
        await self._release_gone()
        attached = True
        while attached and not self._stopping.is_set():
            for place in self._places:
                await self._thread.run(place.read)
            self._note_changes()
            await self._remove(self._leaving())
            attached = await self._attach_next() or await self._resampling.next()
        await self._thread.run(self._overlapping.look, self._places)
        await self._check()

    async def _attach_next(self) -> bool:
        """Attach to one more link, if there is one; return whether it was tried."""
        self._note_idle()
        self._attaching.keep((*self._wanted(), *self._resampling.outdated()))
        for place, link in self._free():
            if self._attaching.due(place, link) > time.monotonic():
                continue
            try:
                attachment = await self._thread.run(self._attaching.attach, place, link)
            except KernelError as err:
                self._attaching.failed(place, link, err)
            else:
                self._take(place, link, attachment)
            return True
        return False

    def _take(self, place: Place, link: LinkFacts, attachment: Attachment) -> None:
        place.follow(link)
        self._agent.add(attachment, place.label)
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
            for index, link in place.links().items():
                if index not in place.followed and self._selection.chooses(link):
                    yield place, link

    def _free(self) -> list[tuple[Place, LinkFacts]]:
        """Wanted links, but for those whose former attachment is being removed."""
        return [
            (place, link)
            for place, link in self._wanted()
            if place.attachment_key(link) not in self._agent
        ]

    def _note_idle(self) -> None:
        idle = not any(place.followed for place in self._places) and not any(self._wanted())
        if idle and not self._idle:
            log.warning("no_interface_matches", remedy="flowstream check lists the interfaces")
        self._idle = idle

    def _note_changes(self) -> None:
        for place in self._places:
            for its, now in place.changes():
                if now.name != its.link.name:
                    self._agent.rename(its.key.if_index, now.name)
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
                elif not self._selection.chooses(its.link):
                    log.info("interface_left_out", **place.named(its.link))
                else:
                    continue
                yield place, its

    async def _remove(self, leaving: Iterable[tuple[Place, Followed]]) -> None:
        """Detach all of them, then empty each in its own time."""
        if not (gone := [*leaving]):
            return
        # A link that moved can be attached to in its new namespace once it is free.
        await self._thread.run(_detach, [self._agent[its.key] for _, its in gone])
        for place, its in gone:
            del place.followed[its.link.index]
            removal = asyncio.ensure_future(self._agent.remove(its.key))
            self._removing.add(removal)
            removal.add_done_callback(self._removed)

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._removing.discard(removal)
        if not removal.cancelled():
            removal.exception()  # it is a fault of the run already
        self.wake()

    async def _check(self) -> None:
        """Give up attachments whose program another process has replaced or detached."""
        if time.monotonic() < self._in_force.due:
            return
        followed = {
            its.key: (place, its) for place in self._places for its in place.followed.values()
        }
        replaced = []
        for key, program in await self._in_force.check(followed):
            place, its = followed[key]
            if not place.has_left(its):
                log.warning("program_replaced", **place.named(its.link), program_id=program)
                self._attaching.displaced(place, its.link)
                replaced.append((place, its))
        await self._remove(replaced)

    async def _release_gone(self) -> None:
        """Close what keeps a namespace alive that has gone by name, path or process."""
        if time.monotonic() < self._alive_due:
            return
        self._alive_due = time.monotonic() + ALIVE_POLL_S
        for place in [*self._places]:
            if place.may_go and not place.namespace.alive():
                log.warning("namespace_gone", netns=place.label, remedy=_RESTART)
                self._places.remove(place)
                asyncio.get_running_loop().remove_reader(place.monitor.fd)
                await self._remove((place, its) for its in place.followed.values())
                place.close()
        if not self._places:
            raise KernelError(_ALL_GONE)

    def close(self) -> None:
        """Release the namespaces; harmless twice."""
        self._thread.close()
        for place in self._places:
            place.close()


def _detach(attachments: Sequence[Attachment]) -> None:
    for each in attachments:
        each.detach()

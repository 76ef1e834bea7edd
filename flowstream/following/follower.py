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
from flowstream.following.changes import Renames, leaving, note_changes
from flowstream.following.in_force import InForce
from flowstream.following.overlapping import Overlapping
from flowstream.following.places import links_by_label
from flowstream.following.points import Point, attached
from flowstream.following.removing import Removable, Removing
from flowstream.following.resampling import Replaceable, Resampling
from flowstream.following.thread import OwnThread
from flowstream.host.selection import Selection
from flowstream.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.config.run import RunConfig
    from flowstream.following.attaching import Attaching, Made
    from flowstream.following.places import Place
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


class Followable(Replaceable, Removable, Renames, Protocol):
    """The run that attachments are added to."""

    def __contains__(self, key: AttachmentKey) -> bool:
        """Whether there is an attachment, or one that is being removed."""

    def add(self, attachment: Attachment, netns: str = "") -> None:
        """Take in an attachment."""


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
        self._in_force = InForce(period_s, agent, self._thread)
        self._overlapping = Overlapping(both=len(attaching.directions) > 1)
        self._resampling = Resampling(agent, attaching, self._places, self._thread)
        self._removing = Removing(agent, self._thread, self.wake)
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
        for point in sorted(self._wanted(), key=lambda each: self._selection.rank(each.link)):
            if is_over():
                return
            try:
                self._take(point, self._attaching.attach(point))
            except KernelError as err:
                if self._selection.named(point.link) and not continues():
                    raise
                self._attaching.failed(point, err)
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
        return min([*due, *(self._attaching.due(each) for each in tries)]) - time.monotonic()

    async def _compare(self) -> None:
        """Compare until nothing is left to do; attach to one link at a time."""
        await self._release_gone()
        attached = True
        while attached and not self._stopping.is_set():
            for place in self._places:
                await self._thread.run(place.read)
            note_changes(self._agent, self._places)
            await self._removing.remove(leaving(self._places, self._selection))
            attached = await self._attach_next() or await self._resampling.next()
        await self._thread.run(self._overlapping.look, self._places)
        await self._check()

    async def _attach_next(self) -> bool:
        """Attach once more, if there is something to; return whether it was tried."""
        self._note_idle()
        self._attaching.keep((*self._wanted(), *self._resampling.outdated()))
        for point in self._free():
            if self._attaching.due(point) > time.monotonic():
                continue
            try:
                made = await self._thread.run(self._attaching.attach, point)
            except KernelError as err:
                self._attaching.failed(point, err)
            else:
                self._take(point, made)
            return True
        return False

    def _take(self, point: Point, made: Made) -> None:
        attachment, reason = made
        point.place.follow(point.link, point.direction)
        self._agent.add(attachment, point.place.label)
        log.info(
            "attached",
            **point.named(),
            mode=str(attachment.mode),
            program=attachment.program.name,
            program_id=attachment.program.id,
            **({"reason": reason} if reason else {}),
        )

    def _wanted(self) -> Iterator[Point]:
        """Links that are chosen, in the directions that have no attachment."""
        for place in self._places:
            for link in place.links().values():
                if self._selection.chooses(link):
                    for direction in self._attaching.directions:
                        if not place.is_followed(link, direction):
                            yield Point(place, link, direction)

    def chosen(self) -> int:
        """Count the interfaces that are there and chosen."""
        links = [link for place in self._places for link in place.links().values()]
        return sum(map(self._selection.chooses, links))

    def _free(self) -> list[Point]:
        """Return what is wanted, but for what has a former attachment that is being removed."""
        return [each for each in self._wanted() if each.attachment_key not in self._agent]

    def _note_idle(self) -> None:
        idle = not any(place.followed for place in self._places) and not any(self._wanted())
        if idle and not self._idle:
            log.warning("no_interface_matches", remedy="flowstream check lists the interfaces")
        self._idle = idle

    async def _check(self) -> None:
        """Give up attachments whose program another process has replaced or detached."""
        if time.monotonic() < self._in_force.due:
            return
        followed = {each.attachment_key: each for each in attached(self._places)}
        replaced = []
        for key, program in await self._in_force.check(followed):
            point = followed[key]
            if not point.place.has_left(point.place.followed[point.link.index]):
                log.warning("program_replaced", **point.named(), program_id=program)
                self._attaching.displaced(point)
                replaced.append(point)
        await self._removing.remove(replaced)

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
                await self._removing.remove(attached([place]))
                place.close()
        if not self._places:
            raise KernelError(_ALL_GONE)

    def close(self) -> None:
        """Release the namespaces; harmless twice."""
        self._thread.close()
        for place in self._places:
            place.close()

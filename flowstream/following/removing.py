"""Takes attachments out of a run: detached at once, each emptied in its own time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from flowstream.following.in_force import Attached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.following.points import Point
    from flowstream.following.thread import OwnThread
    from flowstream.pipeline.probe import Attachment


class Removable(Attached, Protocol):
    """The run that attachments are taken out of."""

    async def remove(self, key: AttachmentKey) -> None:
        """Take out an attachment; return once it is emptied."""


class Removing:
    """Removes attachments of ``agent``; ``on_removed`` is called when one is emptied."""

    def __init__(
        self, agent: Removable, thread: OwnThread, on_removed: Callable[[], object]
    ) -> None:
        self._agent, self._thread, self._on_removed = agent, thread, on_removed
        self._under_way: set[asyncio.Task[None]] = set()

    async def remove(self, points: Iterable[Point]) -> None:
        """Detach all of them, and return; they are emptied meanwhile."""
        if not (gone := [*points]):
            return
        # A link that moved can be attached to in its new namespace once it is free.
        await self._thread.run(_detach, [self._agent[each.attachment_key] for each in gone])
        for point in gone:
            point.place.release(point.link, point.direction)
            removal = asyncio.ensure_future(self._agent.remove(point.attachment_key))
            self._under_way.add(removal)
            removal.add_done_callback(self._removed)

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._under_way.discard(removal)
        if not removal.cancelled():
            removal.exception()  # it is a fault of the run already
        self._on_removed()


def _detach(attachments: Sequence[Attachment]) -> None:
    for each in attachments:
        each.detach()

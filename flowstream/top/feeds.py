"""Where records come from: topics, a recording, or an agent of this command's own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, Protocol

from flowstream.errors import MissingTopicError
from flowstream.source import open_source
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message

_NOTES_S: Final = 1.0


class Feed(Protocol):
    """Messages of the three topics, as they come."""

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings so far, a line each; other threads may read it."""

    @property
    def is_certain(self) -> bool:
        """Whether there will be messages, or an error."""

    def run(self, take: Callable[[list[Message]], None]) -> None:
        """Pass on messages, each list of one topic, until the end or ``stop``.

        Raises ``FlowstreamError`` when no more can be read.
        """

    def stop(self) -> None:
        """Let ``run`` return soon; other threads may call it."""


class SourceFeed:
    """The topics of a source: what is there and, where it ``follows``, what comes later.

    Without ``from_start`` it begins with what comes from now on. Topics of announcements
    and counters may be missing, which is a warning.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        client: ClientSettings,
        *,
        from_start: bool,
        follow: bool,
    ) -> None:
        self._url, self._client = url, client
        self._flows = f"{prefix}.{Stream.FLOWS}"
        self._topics = [f"{prefix}.{stream}" for stream in Stream]
        self._from_start, self._follow = from_start, follow
        self._missing: list[str] = []
        self.warnings: Sequence[str] = ()
        """Topics that are missing, and, at most once a second, those of the source."""
        self._source = open_source(url, self._topics, client=client)
        self._stop: Callable[[], object] | None = None
        self._stopped = False

    is_certain = False

    def run(self, take: Callable[[list[Message]], None]) -> None:
        """Read in this thread; see ``Feed``."""
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._run(take))

    async def _run(self, take: Callable[[list[Message]], None]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None or self._stopped:
            return
        self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await self._read(take)
        except MissingTopicError as err:
            if self._flows in err.topics:
                raise
            self._missing = [f"no topic {topic}" for topic in err.topics]
            there = [topic for topic in self._topics if topic not in err.topics]
            self._source = open_source(self._url, there, client=self._client)
            self._note()
            await self._read(take)

    async def _read(self, take: Callable[[list[Message]], None]) -> None:
        since_ms = None if self._from_start else time.time_ns() // 1_000_000
        noted = time.monotonic()
        try:
            async for messages in self._source.batches(follow=self._follow, since_ms=since_ms):
                if time.monotonic() > noted + _NOTES_S:
                    noted = time.monotonic()
                    self._note()
                take(messages)
        finally:
            self._note()

    def _note(self) -> None:
        self.warnings = [*self._missing, *self._source.warnings]

    def stop(self) -> None:
        """Cancel what is being awaited."""
        self._stopped = True
        if self._stop is not None:
            # The loop may have ended.
            with contextlib.suppress(RuntimeError):
                self._stop()

"""The stage that takes attachments out of a run, and publishes their final counters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowstream.layouts.constants import EndReason
from flowstream.waiting import SETTLE_POLL_S, within

if TYPE_CHECKING:
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.ledger import Ledger
    from flowstream.agent.attachments import Attachments, Departed
    from flowstream.agent.counting import Counting
    from flowstream.pipeline.limit import RecordLimit
    from flowstream.pipeline.publisher import Publisher

POLLED: Final = 64


class Removals:
    """Takes attachments out; ``run`` publishes their final counters once all is settled.

    Where records of one wait in a spool, its final counters are published once more when none
    does: by then it may have lost some.
    """

    def __init__(
        self,
        attachments: Attachments,
        limit: RecordLimit,
        publisher: Publisher,
        counting: Counting,
        ledger: Ledger,
    ) -> None:
        self._attachments, self._limit = attachments, limit
        self._publisher, self._counting, self._ledger = publisher, counting, ledger
        self._emptied: dict[AttachmentKey, Departed] = {}
        self._passed: dict[AttachmentKey, Departed] = {}
        self._spooled: dict[AttachmentKey, Departed] = {}
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let ``run`` see whether there is something to do, or that it has to end."""
        self._news.set()

    async def remove(self, key: AttachmentKey) -> None:
        """Detach one attachment and empty it; its final counters follow."""
        self._emptied[key] = await self._attachments.empty(key, EndReason.FORCED)
        self.wake()

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish final counters until ``stopping`` is set and ``wake`` called."""
        while not stopping.is_set():
            waiting = len(self._passed) + len(self._spooled)
            pause = SETTLE_POLL_S * (1 + waiting / POLLED) if waiting else None
            await within(pause, self._news)
            self._news.clear()
            if self._emptied:
                await self._pass_on()
            for key, departed in list(self._passed.items()):
                if not self._attachments.is_waiting(key, departed):
                    del self._passed[key]
                elif self._ledger.account(key).settled:
                    del self._passed[key]
                    await self._publish(key, departed)
            for key, departed in list(self._spooled.items()):
                if not self._attachments.is_waiting(key, departed):
                    del self._spooled[key]
                elif not self._ledger.account(key).spool.records:
                    del self._spooled[key]
                    await self._publish(key, departed)

    async def _pass_on(self) -> None:
        """Return once all records of the emptied attachments went to the sink."""
        emptied, self._emptied = self._emptied, {}
        await self._limit.flush()
        await self._publisher.passed()
        self._passed.update(emptied)

    async def _publish(self, key: AttachmentKey, departed: Departed) -> None:
        last = self._attachments.snapshot(key)
        await self._counting.publish(last, final=True)
        if not self._attachments.is_waiting(key, departed):
            return
        if last.account.spool.records:
            self._spooled[key] = departed
        else:
            self._attachments.forget(key)

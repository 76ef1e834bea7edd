"""Serves metrics and health while a run lasts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.closing import Closing
from flowstream.metrics.exposition import Exposition
from flowstream.metrics.listener import Listener
from flowstream.metrics.requests import Responder
from flowstream.metrics.server import CONNECTIONS, Server

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flowstream.host.privileges import User
    from flowstream.metrics.observation import Observable

DESCRIPTORS: Final = CONNECTIONS + 2
"""Connections, one that is accepted before another is closed, and the listener."""

log = structlog.get_logger()


class Serving(Closing):
    """Listens at ``address`` from now on, and answers ``during`` a run.

    Needs the privileges of the moment. UsageError names the remedy.
    """

    def __init__(self, address: str, user: User) -> None:
        self._listener = Listener(address, user)

    async def during(self, run: Coroutine[object, object, int], observed: Observable) -> int:
        """Return what ``run`` returns; a fault of the server does not end it."""
        exposition = Exposition(observed)
        server = Server(self._listener.socket, Responder(observed, exposition))
        serving = asyncio.ensure_future(server.run())
        serving.add_done_callback(_note_end)
        log.info("serving_metrics", address=str(self._listener.where))
        try:
            return await run
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            exposition.close()

    def close(self) -> None:
        """Listen no more; harmless twice."""
        self._listener.close()


def _note_end(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (fault := serving.exception()) is not None:
        log.error("metrics_not_served", exc_info=fault)

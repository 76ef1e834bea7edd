"""Connects a run to its sink, before it publishes anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.errors import SinkError
from flowstream.waiting import Pauses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.sink import Sink

_PAUSES_S: Final = (1.0, 30.0)
"""Between attempts to connect: the first pause and the longest."""

log = structlog.get_logger()


async def connect(
    sink: Sink, topics: Sequence[str], stopping: asyncio.Event, *, patient: bool
) -> bool:
    """Start the sink; return False when ``stopping`` was set first.

    SinkError when that fails, unless ``patient``: then it is tried until it succeeds.
    """
    ending = asyncio.ensure_future(stopping.wait())
    starting = asyncio.ensure_future(_start(sink, topics, patient=patient))
    await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    # A sink that has a spool has started by then, also without a connection.
    starting.cancel()
    await asyncio.wait([starting])
    if not starting.cancelled():
        await starting
    return not starting.cancelled()


async def _start(sink: Sink, topics: Sequence[str], *, patient: bool) -> None:
    pauses = Pauses(*_PAUSES_S)
    while True:
        try:
            await sink.start(topics)
        except SinkError as err:
            if not patient:
                raise
            pause = pauses.length()
            log.warning("sink_not_started", error=str(err), retry_s=round(pause, 1))
        else:
            return
        await asyncio.sleep(pause)

"""Waits of a run's stages, which end early at an event."""

from __future__ import annotations

import asyncio
import contextlib


async def within(seconds: float | None, event: asyncio.Event) -> bool:
    """Wait for an event, ``seconds`` at most (None: no limit); return whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()

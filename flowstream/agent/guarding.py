"""Ends the run in order when the attacher ends, which it should not do before the agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from flowstream.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.agent.faults import Faults
    from flowstream.attacher.process import Process

log = structlog.get_logger()


def guard(process: Process, faults: Faults) -> Callable[[], object]:
    """Add a fault when the attacher's process ends; return how to stop that."""
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(process.pidfd)
        log.error("attacher_ended", pid=process.pid, reason=process.end())
        faults.add(KernelError("the attacher ended: no interface could be attached any more"))

    loop.add_reader(process.pidfd, on_end)
    return lambda: loop.remove_reader(process.pidfd)

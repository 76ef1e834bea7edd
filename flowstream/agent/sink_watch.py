"""Ends a run whose sink has failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError
from flowstream.waiting import within

if TYPE_CHECKING:
    import asyncio

    from flowstream.agent.faults import Faults
    from flowstream.sink import Sink

FAULT_POLL_S: Final = 0.5
"""How often the run checks whether the sink has failed."""


class SinkWatch:
    """Makes a sink's fault one of the run's, once."""

    def __init__(self, sink: Sink, faults: Faults) -> None:
        self._sink, self._faults, self._failed = sink, faults, False

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until ``stopping`` is set."""
        while not await within(FAULT_POLL_S, stopping):
            self.check()

    def check(self) -> None:
        """See whether the sink has failed."""
        if self._sink.fault and not self._failed:
            self._failed = True
            self._faults.add(SinkError(self._sink.fault))

"""The runs of a report, and how each ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.report.collecting import LastCounters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.audit import Result, Run

COMPLETE: Final = "complete: final counters"
TAKEN_OVER: Final = "another run took over its links"
KILLED: Final = "no final counters, and a later run: killed"
SILENT: Final = "no final counters, and silent before the end: killed, or cut off"
RUNNING: Final = "no final counters: still running when it was read, or killed"
_SILENT_PERIODS: Final = 3


class Ends:
    """How runs ended; ``latest_ns`` is the time up to which records could have come."""

    def __init__(
        self,
        result: Result,
        last_counters: Mapping[tuple[bytes, int], LastCounters],
        latest_ns: int,
    ) -> None:
        self._last_counters, self._latest_ns = last_counters, latest_ns
        self._newest: dict[str, int] = {}
        for run in result.runs:
            known = self._newest.get(run.host_id, 0)
            self._newest[run.host_id] = max(known, run.agent_epoch)

    def last(self, run: Run) -> LastCounters:
        """When the run's counters were read last; zeros without any."""
        return self._last_counters.get(
            (bytes.fromhex(run.host_id), run.agent_epoch), LastCounters()
        )

    def text(self, run: Run) -> str:
        """How the run ended."""
        if all(interface.final for interface in run.interfaces):
            return COMPLETE
        if any(interface.next_epochs for interface in run.interfaces):
            return TAKEN_OVER
        if run.agent_epoch < self._newest[run.host_id]:
            return KILLED
        last = self.last(run)
        if last.time_unix_ns + _SILENT_PERIODS * last.period_ns < self._latest_ns:
            return SILENT
        return RUNNING

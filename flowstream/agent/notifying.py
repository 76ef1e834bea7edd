"""Reports the state of a run to the service manager, from the event loop itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from flowstream.wording import counted, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.accounting.run import Run
    from flowstream.accounting.snapshot import SpoolState
    from flowstream.agent.attachments import Attachments
    from flowstream.config.run import RunConfig
    from flowstream.host.service_manager import ServiceManager

_PERIODS_S: Final = (1.0, 10.0)
"""Time between two reports: the shortest and the longest."""
_CAUSES: Final = 3
"""Causes of loss that a report names."""


class Notifying:
    """Reports the state of a run, in the rhythm of its counters.

    It waits for no other stage: a sink or disk that is slow delays no report, and without
    reports the service manager knows that the event loop is stuck.
    """

    def __init__(
        self,
        manager: ServiceManager,
        config: RunConfig,
        attachments: Attachments,
        run: Run,
        spool_state: Callable[[], SpoolState],
    ) -> None:
        self._manager, self._attachments = manager, attachments
        self._run, self._spool_state = run, spool_state
        self._before = (time.monotonic(), 0, 0)
        self._connected = False
        self.configure(config)

    def configure(self, config: RunConfig) -> None:
        """Follow the rhythm of another configuration, from the next report on."""
        shortest, longest = _PERIODS_S
        self._period_s = min(max(config.counters_period_s, shortest), longest)
        if self._manager.watchdog_s is not None:
            self._period_s = min(self._period_s, self._manager.watchdog_s / 2)

    def ready(self) -> None:
        """Say that the run publishes, or spools."""
        self._connected = True
        self._manager.ready()
        self._report()

    async def run(self) -> None:
        """Report until cancelled."""
        while self._manager:
            self._report()
            await asyncio.sleep(self._period_s)

    def _report(self) -> None:
        if self._manager:
            self._manager.report(self._status())

    def _status(self) -> str:
        """Return a line on what is observed, published, spooled and lost."""
        kernel = self._attachments.kernel_counts()
        # Those that went are iterated over, too, but are not contained.
        there = {key.if_index for key in self._attachments if key in self._attachments}
        interfaces = counted(len(there), "interface")
        if not self._connected:
            return f"starting: {interfaces} attached, the sink is not connected yet"
        sums = self._run.sums()
        published = sums["flow_records"] + sums["new_flow_records"]
        seen = self._run.past.seen_packets + sum(each.seen.packets for each in kernel)
        (then, *before), self._before = self._before, (time.monotonic(), seen, published)
        elapsed_s = max(self._before[0] - then, 1e-3)
        packets, records = (
            max(round((now - was) / elapsed_s), 0)
            for now, was in zip((seen, published), before, strict=True)
        )
        losses = [each.losses for each in kernel]
        losses += [each.losses for each in self._run.ledger.accounts().values()]
        parts = (
            f"{interfaces}: {counted(packets, 'packet')}/s, {counted(records, 'record')}/s",
            _lost(losses),
            _spool(sums["spooled_records"], self._spool_state().octets),
        )
        return "; ".join(part for part in parts if part)


def _lost(losses: Iterable[Mapping[str, RecordAmount]]) -> str:
    packets: Counter[str] = Counter()
    for each in losses:
        packets.update({cause: lost.packets for cause, lost in each.items()})
    if not packets.total():
        return "no packet lost"
    causes = [cause for cause, number in packets.most_common() if number]
    return f"{counted(packets.total(), 'packet')} lost ({listed(causes, _CAUSES)})"


def _spool(records: int, octets: int) -> str:
    if not records:
        return ""
    return f"{counted(records, 'record')} in the spool, {octets / 1e6:,.1f} MB"

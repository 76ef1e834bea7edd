"""The ledgers of the runs whose records a process publishes: its own, and those it closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.accounting.ledger import AccountedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowstream.accounting.ledger import Ledger


class RunBatch(AccountedBatch, Protocol):
    """The part of a batch of messages that tells whose ledger counts it."""

    @property
    def agent_epoch(self) -> int | None:
        """The run that made its records; None when they belong to none."""


class Ledgers:
    """The sinks' ``Outcomes``: each goes to the ledger of the run that made the records.

    Records of runs that have no ledger here are not counted. ``on_acknowledged`` gets all
    that are published as they come, not out of a spool.
    """

    def __init__(self, agent_epoch: int, ledger: Ledger) -> None:
        self._by_epoch = {agent_epoch: ledger}
        self.on_acknowledged: Callable[[RunBatch, slice], object] = lambda *_: None

    def add(self, agent_epoch: int, ledger: Ledger) -> None:
        """Count the records of another run."""
        self._by_epoch[agent_epoch] = ledger

    def remove(self, agent_epoch: int) -> None:
        """Count no more records of a run."""
        del self._by_epoch[agent_epoch]

    def by_epoch(self) -> Mapping[int, Ledger]:
        """Ledgers by the epoch of their run. Not a copy."""
        return self._by_epoch

    def of(self, batch: RunBatch) -> Ledger | None:
        """Return the ledger of the run that made these records, if it is here."""
        return None if batch.agent_epoch is None else self._by_epoch.get(batch.agent_epoch)

    def acknowledged(self, batch: RunBatch, part: slice) -> None:
        """Records are published."""
        if (ledger := self.of(batch)) is not None:
            ledger.acknowledged(batch, part)
            self.on_acknowledged(batch, part)

    def failed(self, batch: RunBatch, part: slice, cause: str) -> None:
        """The sink gave records up: they are in no topic."""
        if (ledger := self.of(batch)) is not None:
            ledger.failed(batch, part, cause)

    def in_doubt(self, batch: RunBatch, part: slice, cause: str) -> None:
        """Records were sent and never answered: they may or may not be published."""
        if (ledger := self.of(batch)) is not None:
            ledger.in_doubt(batch, part, cause)

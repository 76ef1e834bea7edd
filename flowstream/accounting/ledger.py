"""Per-attachment record and loss accounting.

The kernel's counters say what a program saw. The `Ledger` counts the outcomes of
the records that left the kernel, per interface and direction, every loss by its
cause. All counts only grow, except for the amount that waits in the spool.

Outcomes of a record, behind ``encoded`` (``Account.settled`` when each has one)::

    acknowledged | failed | in_doubt                   without a spool, or beside it
    spooled                                            waits on disk
    spooled → unspooled and acknowledged | failed | in_doubt
    spooled → gone                                     dropped, expired or damaged there

A record that was in doubt when it was spooled waits like any other. Once it is
acknowledged from there it is published; once it is gone it is in doubt.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowstream.accounting.amounts import RecordAmount
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flowstream.accounting.outcomes import Gone
    from flowstream.accounting.tally import AttachmentKey, Tally


class AccountedBatch(Protocol):
    """The part of a batch of messages that the ledger needs."""

    @property
    def stream(self) -> Stream | None:
        """Stream of its records; None when they belong to no ledger."""

    @property
    def tally(self) -> Tally | None:
        """Attachment, packets and octets of each record; None when they belong to no ledger."""


@dataclass(slots=True)
class StageCount:
    """Records of one stream and attachment that passed each stage."""

    drained: int = 0
    encoded: int = 0
    queued: int = 0
    acknowledged: int = 0
    spooled: int = 0
    failed: int = 0
    aggregated: int = 0


@dataclass(slots=True)
class Account:
    """The ledger's counts of one attachment; ``spool`` is what waits there now."""

    flows: StageCount = field(default_factory=StageCount)
    new_flows: StageCount = field(default_factory=StageCount)
    losses: dict[str, RecordAmount] = field(default_factory=dict)
    in_doubt: dict[str, RecordAmount] = field(default_factory=dict)
    spool: RecordAmount = field(default_factory=RecordAmount)

    def stage(self, stream: Stream) -> StageCount:
        """Counts of ``stream``, FLOWS or NEW_FLOWS."""
        return self.flows if stream is Stream.FLOWS else self.new_flows

    @property
    def settled(self) -> bool:
        """Whether every record that got a seq has its outcome or waits in the spool."""
        stages = (self.flows, self.new_flows)
        outcomes = sum(stage.acknowledged + stage.failed for stage in stages)
        outcomes += sum(amount.records for amount in self.in_doubt.values())
        outcomes += self.spool.records
        return sum(stage.encoded for stage in stages) == outcomes


class Ledger:
    """The ledger of a run: an account per attachment; also the sinks' ``Outcomes``."""

    def __init__(
        self, accounts: Mapping[AttachmentKey, Account] | None = None, counters_failed: int = 0
    ) -> None:
        self._accounts: defaultdict[AttachmentKey, Account] = defaultdict(Account, accounts or {})
        self.counters_failed = counters_failed
        """Records of the counters topic that were given up or are in doubt."""

    def account(self, key: AttachmentKey) -> Account:
        """Account of one attachment, empty at first."""
        return self._accounts[key]

    def accounts(self) -> Mapping[AttachmentKey, Account]:
        """Accounts of all attachments that have one."""
        return self._accounts

    def close(self, key: AttachmentKey) -> Account:
        """Forget an account, all of whose records have an outcome; return it."""
        return self._accounts.pop(key, Account())

    def reopen(self, key: AttachmentKey, account: Account) -> None:
        """Go on with an account that was closed."""
        self._accounts[key] = account

    def drained(self, stream: Stream, tally: Tally) -> None:
        """Records left the kernel."""
        for key, amount in tally.sums():
            self._accounts[key].stage(stream).drained += amount.records

    def aggregated(self, before: Iterable[Tally], after: Tally) -> None:
        """Flow records were merged into fewer with the same packets and octets."""
        for tally in before:
            for key, amount in tally.sums():
                self._accounts[key].flows.aggregated += amount.records
        for key, amount in after.sums():
            self._accounts[key].flows.aggregated -= amount.records

    def encoded(self, stream: Stream, tally: Tally) -> None:
        """Records got a ``seq`` and a value."""
        for key, amount in tally.sums():
            self._accounts[key].stage(stream).encoded += amount.records

    def queued(self, batch: AccountedBatch) -> None:
        """The sink accepted a batch."""
        for _, stage, amount in self._of(batch, slice(None)):
            stage.queued += amount.records

    def lost(self, tally: Tally, cause: str) -> None:
        """Records were given up before they got a seq."""
        for key, amount in tally.sums():
            _add(self._accounts[key].losses, cause, amount)

    def acknowledged(self, batch: AccountedBatch, part: slice) -> None:
        """Records are published."""
        for _, stage, amount in self._of(batch, part):
            stage.acknowledged += amount.records

    def failed(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """The sink gave records up: they are in no topic."""
        self._count_failed_counters(batch, part)
        for account, stage, amount in self._of(batch, part):
            stage.failed += amount.records
            _add(account.losses, cause, amount)

    def in_doubt(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """Records were sent and never answered: they may or may not be published."""
        self._count_failed_counters(batch, part)
        for account, _, amount in self._of(batch, part):
            _add(account.in_doubt, cause, amount)

    def spooled(self, batch: AccountedBatch, part: slice) -> None:
        """Records are on disk, to be published later; ``unspooled`` or ``gone`` follows."""
        for account, stage, amount in self._of(batch, part):
            stage.spooled += amount.records
            account.spool = account.spool.plus(amount)

    def unspooled(self, batch: AccountedBatch, part: slice) -> None:
        """Spooled records got an outcome from the broker: call its method, too.

        Not for records that remain in the spool, to be sent again.
        """
        for account, _, amount in self._of(batch, part):
            account.spool = account.spool.minus(amount)

    def gone(self, gone: Gone) -> None:
        """Spooled records of this run left the spool unpublished: lost, or in doubt.

        Counters records are left out: later ones make up for them.
        """
        if gone.stream is Stream.COUNTERS:
            return
        for key, amount in gone.amounts.items():
            account = self._accounts[key]
            account.spool = account.spool.minus(amount)
            if gone.in_doubt:
                _add(account.in_doubt, gone.cause, amount)
            else:
                account.stage(gone.stream).failed += amount.records
                _add(account.losses, gone.cause, amount)

    def _of(
        self, batch: AccountedBatch, part: slice
    ) -> Iterator[tuple[Account, StageCount, RecordAmount]]:
        """Accounts, stages and amounts of a part of a batch of flows or announcements."""
        if batch.stream is None or batch.tally is None or batch.stream is Stream.COUNTERS:
            return
        for key, amount in batch.tally[part].sums():
            account = self._accounts[key]
            yield account, account.stage(batch.stream), amount

    def _count_failed_counters(self, batch: AccountedBatch, part: slice) -> None:
        if batch.stream is Stream.COUNTERS and batch.tally is not None:
            self.counters_failed += len(batch.tally[part])


def _add(amounts: dict[str, RecordAmount], cause: str, amount: RecordAmount) -> None:
    amounts[cause] = amounts.get(cause, RecordAmount()).plus(amount)

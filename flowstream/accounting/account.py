"""The ledger's counts of one attachment, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from flowstream.accounting.amounts import Amount, Count, RecordAmount
from flowstream.streams import FLOW_STREAMS, Stream


@dataclass(slots=True)
class StageCount:
    """Records of one stream and attachment that passed each stage."""

    drained: Count = 0
    encoded: Count = 0
    queued: Count = 0
    acknowledged: Count = 0
    spooled: Count = 0
    failed: Count = 0
    aggregated: Count = 0

    def plus(self, other: StageCount) -> StageCount:
        """Sum of both."""
        return StageCount(*(getattr(self, name) + getattr(other, name) for name in _STAGES))


_STAGES: Final = [each.name for each in fields(StageCount)]


@dataclass(slots=True)
class Outcome:
    """What became of records: ``acknowledged`` is what the published ones stand for."""

    flows: StageCount = field(default_factory=StageCount)
    new_flows: StageCount = field(default_factory=StageCount)
    acknowledged: Amount = field(default_factory=Amount)
    losses: dict[str, RecordAmount] = field(default_factory=dict)
    in_doubt: dict[str, RecordAmount] = field(default_factory=dict)

    def stage(self, stream: Stream) -> StageCount:
        """Counts of ``stream``, FLOWS or NEW_FLOWS."""
        return self.flows if stream is Stream.FLOWS else self.new_flows

    def publish(self, stream: Stream, amount: RecordAmount) -> None:
        """Count records as published."""
        self.stage(stream).acknowledged += amount.records
        self.acknowledged = self.acknowledged.plus(Amount(*amount[1:]))

    def fail(self, stream: Stream, amount: RecordAmount, cause: str) -> None:
        """Count records that a sink or the spool gave up."""
        self.stage(stream).failed += amount.records
        self.lose(amount, cause)

    def lose(self, amount: RecordAmount, cause: str) -> None:
        """Count a loss."""
        self.losses[cause] = self.losses.get(cause, RecordAmount()).plus(amount)

    def doubt(self, amount: RecordAmount, cause: str) -> None:
        """Count records that may or may not be published."""
        self.in_doubt[cause] = self.in_doubt.get(cause, RecordAmount()).plus(amount)

    @property
    def records(self) -> int:
        """Records that have an outcome."""
        stages = (self.flows, self.new_flows)
        doubtful = sum(amount.records for amount in self.in_doubt.values())
        return sum(stage.acknowledged + stage.failed for stage in stages) + doubtful

    @property
    def amount(self) -> Amount:
        """Packets and octets that were published, lost or are in doubt."""
        total = self.acknowledged
        for each in (*self.losses.values(), *self.in_doubt.values()):
            total = total.plus(Amount(*each[1:]))
        return total

    def change(self, before: Outcome, after: Outcome) -> None:
        """Add what ``after`` has beyond ``before``, of the same records."""
        for stream in FLOW_STREAMS:
            mine, old_stage, new_stage = (each.stage(stream) for each in (self, before, after))
            mine.acknowledged += new_stage.acknowledged - old_stage.acknowledged
            mine.failed += new_stage.failed - old_stage.failed
        self.change_amounts(before, after)

    def change_amounts(self, before: Outcome, after: Outcome) -> None:
        """Add the packets and octets that ``after`` has beyond ``before``."""
        self.acknowledged = self.acknowledged.plus(after.acknowledged.minus(before.acknowledged))
        for mine_by_cause, old, new in (
            (self.losses, before.losses, after.losses),
            (self.in_doubt, before.in_doubt, after.in_doubt),
        ):
            for cause in sorted({*old, *new}):
                more_lost = new.get(cause, RecordAmount()).minus(old.get(cause, RecordAmount()))
                total = mine_by_cause.get(cause, RecordAmount()).plus(more_lost)
                mine_by_cause[cause] = total


@dataclass(slots=True)
class Account(Outcome):
    """The ledger's counts of one attachment.

    ``spool`` is what waits there now; ``left`` is the part of the outcomes of records
    that had left it.
    """

    spool: RecordAmount = field(default_factory=RecordAmount)
    left: Outcome = field(default_factory=Outcome)

    def add(self, other: Account) -> None:
        """Add the counts of another account of this attachment."""
        for outcome, more in ((self.left, other.left), (self, other)):
            outcome.flows = outcome.flows.plus(more.flows)
            outcome.new_flows = outcome.new_flows.plus(more.new_flows)
            outcome.change_amounts(Outcome(), more)
        self.spool = self.spool.plus(other.spool)

    @property
    def encoded(self) -> int:
        """Records that got a seq."""
        return self.flows.encoded + self.new_flows.encoded

    @property
    def unsettled(self) -> int:
        """Records that got a seq, have no outcome and do not wait in the spool."""
        return self.encoded - self.records - self.spool.records

    @property
    def settled(self) -> bool:
        """Whether every record that got a seq has its outcome or waits in the spool."""
        return not self.unsettled

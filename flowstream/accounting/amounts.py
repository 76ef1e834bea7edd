"""Sums of packets and of records, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)]
"""The sum of any two is a count that records can carry (63 bits)."""


class Amount(NamedTuple):
    """Packets and their frame octets."""

    packets: Count = 0
    l2_bytes: Count = 0

    def plus(self, other: Amount) -> Amount:
        """Sum of both."""
        return Amount(self.packets + other.packets, self.l2_bytes + other.l2_bytes)

    def minus(self, other: Amount) -> Amount:
        """Difference of both."""
        return Amount(self.packets - other.packets, self.l2_bytes - other.l2_bytes)


class RecordAmount(NamedTuple):
    """Records, and the packets and frame octets that they counted."""

    records: Count = 0
    packets: Count = 0
    l2_bytes: Count = 0

    def plus(self, other: RecordAmount) -> RecordAmount:
        """Sum of both."""
        return RecordAmount(*(mine + its for mine, its in zip(self, other, strict=True)))

    def minus(self, other: RecordAmount) -> RecordAmount:
        """Difference of both."""
        return RecordAmount(*(mine - its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """Counters of one attachment's program.

    ``no_flow`` has every reason of ``terms.NO_FLOW``; ``losses`` the causes
    that the program itself counts, those at 0 too.
    """

    seen: Amount
    no_flow: dict[str, Amount]
    losses: dict[str, RecordAmount] = field(default_factory=dict)

    @property
    def recorded(self) -> Amount:
        """What the program put into records: seen, less what it counted otherwise."""
        rest = self.seen
        for amount in self.no_flow.values():
            rest = rest.minus(amount)
        for lost in self.losses.values():
            rest = rest.minus(Amount(lost.packets, lost.l2_bytes))
        return rest

    def plus(self, other: KernelCounts) -> KernelCounts:
        """Sum of both, which have the same reasons and causes."""
        return KernelCounts(
            self.seen.plus(other.seen),
            {
                reason: amount.plus(other.no_flow[reason])
                for reason, amount in self.no_flow.items()
            },
            {cause: mine.plus(other.losses[cause]) for cause, mine in self.losses.items()},
        )

    def minus(self, earlier: KernelCounts) -> KernelCounts:
        """Return what was counted since ``earlier``, which has the same reasons and causes."""
        return KernelCounts(
            self.seen.minus(earlier.seen),
            {
                reason: amount.minus(earlier.no_flow[reason])
                for reason, amount in self.no_flow.items()
            },
            {cause: mine.minus(earlier.losses[cause]) for cause, mine in self.losses.items()},
        )

"""Who got what: the books from which the counters topic is written.

The kernel's counters say what arrived; the `Ledger` says what became of the
records that left the kernel, per interface and stage, and every loss under its
cause. All of them only grow.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.accounting.tally import Tally


class AccountedBatch(Protocol):
    """The part of a batch of messages that the books need."""

    @property
    def stream(self) -> Stream | None:
        """Stream of its records; None when they belong to no books."""

    @property
    def tally(self) -> Tally | None:
        """What each record stands for; None when they belong to no books."""


class LossCount(NamedTuple):
    """Records, the packets and the frame octets that they stood for."""

    records: int = 0
    packets: int = 0
    l2_bytes: int = 0

    def plus(self, other: LossCount) -> LossCount:
        """Sum of both."""
        return LossCount(*(mine + its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """What one interface's program counted; octets are frame octets.

    ``counted_*`` are packets that the program counts without making flow
    records of them. ``losses`` has one entry per cause, also when it is 0.
    """

    rx_packets: int
    rx_bytes: int
    non_ip_packets: int
    non_ip_bytes: int
    malformed_packets: int
    malformed_bytes: int
    sampled_out_packets: int
    sampled_out_bytes: int
    counted_packets: int = 0
    counted_bytes: int = 0
    losses: dict[str, LossCount] = field(default_factory=dict)

    def plus(self, other: KernelCounts) -> KernelCounts:
        """Sum of both; they have the same causes of loss."""
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if each.name != "losses"
        }
        losses = {cause: loss.plus(other.losses[cause]) for cause, loss in self.losses.items()}
        return KernelCounts(**sums, losses=losses)


@dataclass(slots=True)
class StageCount:
    """Records of one stream and interface that passed each stage."""

    drained: int = 0
    encoded: int = 0
    queued: int = 0
    acknowledged: int = 0
    spooled: int = 0
    failed: int = 0


@dataclass(slots=True)
class Account:
    """One interface's books."""

    flows: StageCount = field(default_factory=StageCount)
    new_flows: StageCount = field(default_factory=StageCount)
    losses: dict[str, LossCount] = field(default_factory=dict)

    def stage(self, stream: Stream) -> StageCount:
        """Counts of ``stream``, FLOWS or NEW_FLOWS."""
        return self.flows if stream is Stream.FLOWS else self.new_flows

    @property
    def settled(self) -> bool:
        """Whether every record that got a seq has its outcome."""
        encoded = self.flows.encoded + self.new_flows.encoded
        acknowledged = self.flows.acknowledged + self.new_flows.acknowledged
        return encoded == acknowledged + self.flows.failed + self.new_flows.failed

    def lose(self, cause: str, loss: LossCount) -> None:
        """Add a loss."""
        self.losses[cause] = self.losses.get(cause, LossCount()).plus(loss)


class Ledger:
    """Books of all interfaces by index; also the sinks' ``Outcomes``."""

    def __init__(self) -> None:
        self._accounts: defaultdict[int, Account] = defaultdict(Account)
        self.counters_failed = 0
        """Records of the counters topic that were given up."""

    def account(self, in_if: int) -> Account:
        """The books of one interface."""
        return self._accounts[in_if]

    def drained(self, stream: Stream, tally: Tally) -> None:
        """Records left the kernel."""
        for in_if, loss in _by_interface(tally):
            self._accounts[in_if].stage(stream).drained += loss.records

    def encoded(self, stream: Stream, tally: Tally) -> None:
        """Records got a seq and a value."""
        for in_if, loss in _by_interface(tally):
            self._accounts[in_if].stage(stream).encoded += loss.records

    def queued(self, batch: AccountedBatch) -> None:
        """The sink accepted a batch."""
        if batch.stream is None or batch.tally is None:
            return
        for in_if, loss in _by_interface(batch.tally):
            self._accounts[in_if].stage(batch.stream).queued += loss.records

    def lost(self, tally: Tally, cause: str) -> None:
        """Records were given up before they got a seq."""
        for in_if, loss in _by_interface(tally):
            self._accounts[in_if].lose(cause, loss)

    def acknowledged(self, batch: AccountedBatch, part: slice) -> None:
        """Records are published."""
        if batch.stream is None or batch.tally is None or batch.stream is Stream.COUNTERS:
            return
        for in_if, loss in _by_interface(batch.tally[part]):
            self._accounts[in_if].stage(batch.stream).acknowledged += loss.records

    def failed(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """The sink gave records up."""
        if batch.stream is None or batch.tally is None:
            return
        tally = batch.tally[part]
        if batch.stream is Stream.COUNTERS:
            self.counters_failed += len(tally)
            return
        for in_if, loss in _by_interface(tally):
            account = self._accounts[in_if]
            account.stage(batch.stream).failed += loss.records
            account.lose(cause, loss)

    def in_doubt(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """The sink gave records up that may be published."""
        self.failed(batch, part, cause)


def _by_interface(tally: Tally) -> Iterator[tuple[int, LossCount]]:
    """Sums of a tally per interface that occurs in it."""
    indices = tally.in_if
    if len(indices) and (indices == indices[0]).all():
        # Of one interface, as most are: less than half of the time.
        yield (
            int(indices[0]),
            LossCount(len(indices), int(tally.packets.sum()), int(tally.l2_bytes.sum())),
        )
        return
    for in_if in np.unique(tally.in_if).tolist():
        mine = tally.in_if == in_if
        yield (
            in_if,
            LossCount(
                int(np.count_nonzero(mine)),
                int(tally.packets[mine].sum()),
                int(tally.l2_bytes[mine].sum()),
            ),
        )

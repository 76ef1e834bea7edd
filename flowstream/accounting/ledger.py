"""Per-attachment record and loss accounting.

The kernel's counters say what a program saw. The `Ledger` counts the outcomes of
the records that left the kernel, per interface and direction, every loss by its
cause. All counts only grow, except for the amount that waits in the spool.

Outcomes of a record, behind ``encoded`` (``Account.settled`` when each has one)::

    acknowledged | failed | in_doubt                   without a spool, or beside it
    spooled                                            waits on disk
    spooled → unspooled                                published from there
    spooled → gone                                     dropped, damaged or refused

A record that was in doubt when it was spooled waits like any other. Once it is
acknowledged from there it is published; once it is gone it is in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.accounting.account import Account
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.outcomes import Gone
    from flowstream.accounting.tally import Tally


class AccountedBatch(Protocol):
    """The part of a batch of messages that the ledger needs."""

    @property
    def stream(self) -> Stream | None:
        """Stream of its records; None when they belong to no ledger."""

    @property
    def tally(self) -> Tally | None:
        """Attachment, packets and octets of each record; None when they belong to no ledger."""


class Ledger:
    """The ledger of a run: an account per attachment; also the sinks' ``Outcomes``.

    ``changed`` is called with the key of each account that is about to change.
    """

    def __init__(
        self, accounts: Mapping[AttachmentKey, Account] | None = None, counters_failed: int = 0
    ) -> None:
        self._accounts: dict[AttachmentKey, Account] = dict(accounts or {})
        self.changed: Callable[[AttachmentKey], object] | None = None
        self.counters_queued = 0
        """Records of the counters topic that the sink accepted."""
        self.counters_published = 0
        """Records of the counters topic that were acknowledged or spooled."""
        self.counters_failed = counters_failed
        """Records of the counters topic that were given up or are in doubt."""

    def account(self, key: AttachmentKey) -> Account:
        """Account of one attachment, empty at first."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
        return account

    def accounts(self) -> Mapping[AttachmentKey, Account]:
        """Accounts of all attachments that have one."""
        return self._accounts

    def close(self, key: AttachmentKey) -> Account:
        """Forget an account, all of whose records have an outcome; return it."""
        return self._accounts.pop(key, Account())

    def reopen(self, key: AttachmentKey, account: Account) -> None:
        """Go on with an account that was closed; what was counted since is in it, too."""
        if (since := self._accounts.get(key)) is not None:
            account.add(since)
        self._accounts[key] = account

    @property
    def counters_settled(self) -> bool:
        """Whether every record of the counters topic was published or given up."""
        return self.counters_queued <= self.counters_published + self.counters_failed

    def drained(self, stream: Stream, tally: Tally) -> None:
        """Records left the kernel."""
        for key, amount in tally.sums():
            self._change(key).stage(stream).drained += amount.records

    def aggregated(self, before: Iterable[Tally], after: Tally) -> None:
        """Flow records were merged into fewer with the same packets and octets."""
        for tally in before:
            for key, amount in tally.sums():
                self._change(key).flows.aggregated += amount.records
        for key, amount in after.sums():
            self._change(key).flows.aggregated -= amount.records

    def encoded(self, stream: Stream, tally: Tally) -> None:
        """Records got a ``seq`` and a value."""
        for key, amount in tally.sums():
            self._change(key).stage(stream).encoded += amount.records

    def queued(self, batch: AccountedBatch) -> None:
        """The sink accepted a batch."""
        self.counters_queued += _counters(batch, slice(None))
        for account, stream, amount in self._of(batch, slice(None)):
            account.stage(stream).queued += amount.records

    def lost(self, tally: Tally, cause: str) -> None:
        """Records were given up before they got a seq."""
        for key, amount in tally.sums():
            self._change(key).lose(amount, cause)

    def acknowledged(self, batch: AccountedBatch, part: slice) -> None:
        """Records are published."""
        self.counters_published += _counters(batch, part)
        for account, stream, amount in self._of(batch, part):
            account.publish(stream, amount)

    def failed(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """The sink gave records up: they are in no topic."""
        self.counters_failed += _counters(batch, part)
        for account, stream, amount in self._of(batch, part):
            account.fail(stream, amount, cause)

    def in_doubt(self, batch: AccountedBatch, part: slice, cause: str) -> None:
        """Records were sent and never answered: they may or may not be published."""
        self.counters_failed += _counters(batch, part)
        for account, _, amount in self._of(batch, part):
            account.doubt(amount, cause)

    def spooled(self, batch: AccountedBatch, part: slice) -> None:
        """Records are on disk, to be published later; ``unspooled`` or ``gone`` follows."""
        self.counters_published += _counters(batch, part)
        for account, stream, amount in self._of(batch, part):
            account.stage(stream).spooled += amount.records
            account.spool = account.spool.plus(amount)

    def unspooled(self, stream: Stream, amounts: Mapping[AttachmentKey, RecordAmount]) -> None:
        """Spooled records are published.

        Neither for records that remain in the spool, to be sent again, nor for counters.
        """
        for key, amount in amounts.items():
            account = self._change(key)
            account.spool = account.spool.minus(amount)
            for each in (account, account.left):
                each.publish(stream, amount)

    def gone(self, gone: Gone) -> None:
        """Spooled records of this run left the spool unpublished: lost, or in doubt.

        Counters records are left out: later ones make up for them.
        """
        if gone.stream is Stream.COUNTERS:
            return
        for key, amount in gone.amounts.items():
            account = self._change(key)
            account.spool = account.spool.minus(amount)
            for each in (account, account.left):
                gone.count(each, amount)

    def _change(self, key: AttachmentKey) -> Account:
        """Account of one attachment, about to change."""
        if self.changed is not None:
            self.changed(key)
        return self.account(key)

    def _of(
        self, batch: AccountedBatch, part: slice
    ) -> Iterator[tuple[Account, Stream, RecordAmount]]:
        """Accounts, stream and amounts of a part of a batch of flows or announcements."""
        if batch.stream is None or batch.tally is None or batch.stream is Stream.COUNTERS:
            return
        for key, amount in batch.tally[part].sums():
            yield self._change(key), batch.stream, amount


def _counters(batch: AccountedBatch, part: slice) -> int:
    """Records of the counters topic in a part of a batch."""
    if batch.stream is not Stream.COUNTERS or batch.tally is None:
        return 0
    return len(batch.tally[part])

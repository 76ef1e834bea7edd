"""What is kept of attachments that went, so that their counts go on when they come back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

# msgspec reads the annotations at run time.
from flowstream.accounting.account import Account  # noqa: TC001
from flowstream.accounting.amounts import KernelCounts  # noqa: TC001

if TYPE_CHECKING:
    from flowstream.accounting.attachment_key import AttachmentKey

KEPT: Final = 16_384
"""Attachments whose counts are kept: about 10 MB."""


class Counts(NamedTuple):
    """The last counts of an attachment."""

    account: Account
    kernel: KernelCounts


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Counts).decode


class Past:
    """Counts of attachments that went, all of whose records have an outcome.

    They are packed, and beyond ``most`` the oldest are forgotten: nothing grows with
    interfaces that come and go. Their sums stay.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._packed: dict[AttachmentKey, bytes] = {}
        self.seen_packets = 0
        self.sums: Counter[str] = Counter()

    def keep(self, key: AttachmentKey, counts: Counts) -> None:
        """Keep the counts of an attachment."""
        self.seen_packets += counts.kernel.seen.packets
        self.sums.update(outcomes(counts.account))
        self._packed[key] = _ENCODE(counts)
        if len(self._packed) > self._most:
            del self._packed[next(iter(self._packed))]

    def get(self, key: AttachmentKey) -> Counts | None:
        """Return the counts of an attachment; None when none are kept."""
        return None if (packed := self._packed.get(key)) is None else _DECODE(packed)

    def take(self, key: AttachmentKey) -> Counts | None:
        """Take the counts of an attachment that is back; None when none are kept."""
        if (packed := self._packed.pop(key, None)) is None:
            return None
        counts: Counts = _DECODE(packed)
        self.seen_packets -= counts.kernel.seen.packets
        self.sums.subtract(outcomes(counts.account))
        return counts


def outcomes(account: Account) -> Counter[str]:
    """Count the records of an account by outcome."""
    return Counter(
        flow_records=account.flows.acknowledged,
        new_flow_records=account.new_flows.acknowledged,
        failed_records=account.flows.failed,
        in_doubt_records=sum(amount.records for amount in account.in_doubt.values()),
        spooled_records=account.spool.records,
    )

"""All counts of one attachment at one moment, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flowstream.accounting.account import Account
    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.books import Facts


class TableState(NamedTuple):
    """The flow table that an attachment's packets go to, shared or its own.

    ``entries`` is approximate while packets arrive.
    """

    entries: int
    capacity: int
    swaps: int


class SpoolState(NamedTuple):
    """The whole spool: octets on disk, and Unix ns of its oldest record, 0 when it is empty."""

    octets: int = 0
    oldest_ns: int = 0


class Moment(NamedTuple):
    """The same moment as Unix time and as CLOCK_BOOTTIME, ns."""

    unix_ns: int
    boot_ns: int

    @property
    def offset_ns(self) -> int:
        """Unix time minus boot time."""
        return self.unix_ns - self.boot_ns


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is counted for one attachment.

    The kernel's counts are read before the ledger's: the ledger is never ahead of the
    kernel.
    """

    key: AttachmentKey
    facts: Facts
    time: Moment
    kernel: KernelCounts
    account: Account
    table: TableState

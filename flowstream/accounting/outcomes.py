"""Outcomes of the records that a sink accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.accounting.account import Outcome
    from flowstream.accounting.amounts import RecordAmount
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.streams import Stream

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Outcomes(Protocol[BatchT_contra]):
    """Receiver of outcomes; every record of every accepted batch gets exactly one.

    A sink calls these methods in the event loop's thread; none of them may block
    or raise. ``part`` is a slice of the batch with step 1. ``cause`` is a
    key of ``terms.LOSSES`` where records failed, of ``terms.IN_DOUBT`` where they are
    in doubt.
    """

    def acknowledged(self, batch: BatchT_contra, part: slice) -> None:
        """Count these records as published: the broker acknowledged, or the file has them."""

    def failed(self, batch: BatchT_contra, part: slice, cause: str) -> None:
        """Count these records as lost: none of them is published."""

    def in_doubt(self, batch: BatchT_contra, part: slice, cause: str) -> None:
        """Count these records as sent but never answered: any of them may be published."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Records of one run and stream that left the spool unpublished, by one cause.

    ``amounts`` by attachment; ``cause`` is ``terms.SPOOL_FULL``, ``SPOOL_EXPIRED`` or
    ``SPOOL_DAMAGED``, or that of a broker's final refusal. ``in_doubt``: they were sent
    once without an answer, before they were spooled or out of the spool, so they may be
    published all the same.
    """

    agent_epoch: int
    stream: Stream
    amounts: Mapping[AttachmentKey, RecordAmount]
    cause: str
    in_doubt: bool = False

    def count(self, outcome: Outcome, amount: RecordAmount) -> None:
        """Count ``amount`` of these records, those of one attachment."""
        if self.in_doubt:
            outcome.doubt(amount, self.cause)
        else:
            outcome.fail(self.stream, amount, self.cause)

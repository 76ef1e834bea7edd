"""What the spool holds and what left it unpublished, as amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from flowstream.accounting.amounts import RecordAmount
from flowstream.segments.tallies import Sum, Unsigned, amounts_of, sums_of
from flowstream.streams import Stream  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.messages import MessageBatch
    from flowstream.segments.tallies import Entry


class Place(NamedTuple):
    """Where a batch is in the spool."""

    topic: str
    partition: int
    base_offset: int


@dataclass(frozen=True, slots=True)
class SpooledBatch:
    """A batch read from the spool.

    ``agent_epoch`` is None, and so are the stream and the tally of ``batch``, where
    the sidecar is missing or damaged. ``amounts`` are the sums of the whole batch, also
    where only the tally is damaged. ``in_doubt``: it had been sent to a broker, which
    did not answer, before it was spooled or out of the spool.
    """

    batch: MessageBatch
    agent_epoch: int | None
    in_doubt: bool
    place: Place
    amounts: Mapping[AttachmentKey, RecordAmount]


class Lost(msgspec.Struct, array_like=True, frozen=True):
    """Records of one run and stream that left the spool without being published.

    ``records`` includes those that are not in ``sums``, by attachment, because their amounts
    are unknown; ``agent_epoch`` is None where the run is unknown too. ``in_doubt``: they
    may have been published. ``cause`` is a key of ``terms.LOSSES``.
    """

    agent_epoch: Unsigned | None
    stream: Stream | None
    in_doubt: bool
    cause: str
    records: Unsigned
    sums: tuple[Sum, ...]

    @property
    def amounts(self) -> dict[AttachmentKey, RecordAmount]:
        """Sums by attachment."""
        return amounts_of(self.sums)


class Waiting(NamedTuple):
    """Key of the amounts that wait in the spool."""

    agent_epoch: int
    stream: Stream
    attachment: AttachmentKey


class Kind(NamedTuple):
    """What the records of one ``Lost`` have in common."""

    agent_epoch: int | None
    stream: Stream | None
    in_doubt: bool
    cause: str


Amounts = dict["AttachmentKey", RecordAmount]


class Losses:
    """Collects records that are gone, summed by what they have in common."""

    def __init__(self) -> None:
        self._records: dict[Kind, int] = {}
        self._amounts: dict[Kind, Amounts] = {}

    def add(self, lost: Lost) -> None:
        """Add records, and their amounts as far as they are known."""
        kind = Kind(lost.agent_epoch, lost.stream, lost.in_doubt, lost.cause)
        self._records[kind] = self._records.get(kind, 0) + lost.records
        sums = self._amounts.setdefault(kind, {})
        for key, amount in lost.amounts.items():
            sums[key] = sums.get(key, RecordAmount()).plus(amount)

    def pending(self) -> list[Lost]:
        """Return everything since the last ``take``."""
        return [Lost(*kind, n, sums_of(self._amounts[kind])) for kind, n in self._records.items()]

    def take(self) -> list[Lost]:
        """Return everything since the last call."""
        lost = self.pending()
        self._records, self._amounts = {}, {}
        return lost


class Stock:
    """Records waiting in the spool: all of them, and the amounts that are known."""

    def __init__(self) -> None:
        self.records = 0
        self.amounts: dict[Waiting, RecordAmount] = {}

    def add(
        self, records: int, amounts: Iterable[tuple[Waiting, RecordAmount]], sign: int = 1
    ) -> None:
        """Add records; with ``sign`` -1 take them out."""
        self.records += sign * records
        for key, amount in amounts:
            before = self.amounts.get(key, RecordAmount())
            after = before.plus(amount) if sign > 0 else before.minus(amount)
            if after.records:
                self.amounts[key] = after
            else:
                self.amounts.pop(key, None)

    def copy(self) -> Stock:
        """Return another stock of the same."""
        other = Stock()
        other.records, other.amounts = self.records, dict(self.amounts)
        return other

    def lost(self, stream: Stream | None, cause: str, *, in_doubt: bool) -> Iterator[Lost]:
        """Yield everything as lost, by run; where that is unknown, of ``stream``."""
        sums: dict[tuple[int, Stream], Amounts] = {}
        for waiting, amount in self.amounts.items():
            sums.setdefault(waiting[:2], {})[waiting.attachment] = amount
        unknown = self.records
        for run, amounts in sums.items():
            records = sum(each.records for each in amounts.values())
            unknown -= records
            yield Lost(*run, in_doubt, cause, records, sums_of(amounts))
        if unknown:
            yield Lost(None, stream, in_doubt, cause, unknown, ())


class Inventory(NamedTuple):
    """What waits in a spool, and what left it unpublished."""

    stock: Stock
    losses: Losses


def keyed(entry: Entry) -> Iterator[tuple[Waiting, RecordAmount]]:
    """Yield the amounts of a batch whose run is known."""
    if entry.agent_epoch is not None and entry.stream is not None:
        for key, amount in entry.amounts().items():
            yield Waiting(entry.agent_epoch, entry.stream, key), amount

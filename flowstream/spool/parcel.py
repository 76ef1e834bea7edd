"""Records on their way to the spool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowstream.accounting import terms

if TYPE_CHECKING:
    from flowstream.messages import MessageBatch

# What a message takes in memory beside its key and value, about.
_MESSAGE_OCTETS: Final = 120


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """A batch for the spool.

    ``in_doubt``: its records were sent and never answered, by ``cause``. ``seq`` is that
    of the only record where it is an amended counters record of an earlier run.
    """

    batch: MessageBatch
    in_doubt: bool = False
    cause: str = terms.IO_ERROR
    seq: int | None = None

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def agent_epoch(self) -> int:
        """The run that made its records; ValueError for messages of no run."""
        if self.batch.agent_epoch is None:
            raise ValueError("a batch of no run")
        return self.batch.agent_epoch

    @property
    def octets(self) -> int:
        """Octets in memory, about."""
        return self.batch.octets + _MESSAGE_OCTETS * len(self.batch)

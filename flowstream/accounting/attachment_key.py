"""Which attachment a count belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from flowstream.records import CountersRecord


INGRESS: Final = 0
EGRESS: Final = 1


class AttachmentKey(NamedTuple):
    """An interface in one direction, ``INGRESS`` or ``EGRESS`` (IPFIX 61)."""

    if_index: int
    flow_direction: int = INGRESS

    @classmethod
    def of_code(cls, code: int) -> Self:
        """Key whose code in a ``Tally`` is ``code``."""
        return cls(code >> 1, code & 1)

    @classmethod
    def of_record(cls, record: CountersRecord) -> Self:
        """Key of a counters record."""
        return cls(record.if_index, record.flow_direction)

    @property
    def direction(self) -> str:
        """The direction in words, for messages."""
        return "egress" if self.flow_direction == EGRESS else "ingress"

    @property
    def code(self) -> int:
        """Code in a ``Tally``."""
        return 2 * self.if_index + self.flow_direction

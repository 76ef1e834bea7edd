"""Result of an audit: plain values, printed as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

# msgspec reads the annotations at run time.
from flowstream.records import Loss, SpoolCounts, StageCounts  # noqa: TC001
from flowstream.streams import Stream  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

GAPS_SHOWN: Final = 5
"""How many ranges of missing numbers a topic's result names."""


class Amount(Struct, frozen=True):
    """Packets and their frame octets; a difference may be negative."""

    packets: int
    l2_bytes: int

    @classmethod
    def total(cls, amounts: Iterable[Amount | Loss]) -> Amount:
        """Sum of all."""
        parts = list(amounts)
        return cls(sum(each.packets for each in parts), sum(each.l2_bytes for each in parts))


class Interface(Struct, frozen=True, kw_only=True):
    """Loss equation of one interface and direction in one run.

    ``flows`` are the packets of the published flow records. ``no_flow``, ``losses``,
    ``in_doubt``, ``spool`` and ``stages`` are those of the last counters record, which a
    later run may have amended; the difference is ``seen`` less ``no_flow``, ``flows`` and
    ``losses``.
    """

    if_index: int
    if_name: str
    """Name in the counters record; empty without one."""
    flow_direction: int
    """0 ingress, 1 egress."""
    counters: bool
    """Whether there is a counters record."""
    final: bool
    """Whether the last one is final: only then the difference is exact."""
    seen: Amount
    backwards: dict[str, tuple[int, int]]
    """Counts that are lower in the last counters record than in another: highest and last."""
    flows: Amount
    no_flow: dict[str, Amount]
    losses: dict[str, Loss]
    in_doubt: dict[str, Loss]
    spool: SpoolCounts
    stages: dict[str, StageCounts]
    difference: Amount

    @property
    def label(self) -> str:
        """Name and direction, for people."""
        name = self.if_name or f"ifindex {self.if_index}"
        return f"{name} {'egress' if self.flow_direction else 'ingress'}"

    @property
    def doubtful(self) -> Amount:
        """Packets and octets of all records in doubt."""
        return Amount.total(self.in_doubt.values())

    @property
    def waiting(self) -> Amount:
        """Packets and octets of the records that were in the spool."""
        return Amount(self.spool.packets, self.spool.l2_bytes)


class Topic(Struct, frozen=True, kw_only=True):
    """Sequence of one topic in one run.

    ``expected`` is the number of records that the run made, None when it is
    unknown; ``failed``, ``in_doubt`` and ``waiting`` say how many of them the run counted
    as lost, as sent but never answered, and as in the spool. ``missing`` records are not
    in the topic;
    ``gaps`` are their first ranges (first, last). Of them ``deleted`` may have been
    deleted by retention, because partitions begin above offset 0; from
    ``complete_from_ms`` (Unix ms) on none was. ``conflicts`` are numbers of records
    that repeat another's ``seq`` and differ from it.
    """

    topic: str
    stream: Stream
    records: int
    first_seq: int | None
    last_seq: int | None
    expected: int | None
    failed: int
    in_doubt: int
    waiting: int
    missing: int
    deleted: int
    complete_from_ms: int | None
    gaps: list[tuple[int, int]]
    duplicates: int
    conflicts: int
    partitions: int

    @property
    def unanswered(self) -> int:
        """Records of which the run knew no outcome: in doubt, or in the spool."""
        return self.in_doubt + self.waiting

    @property
    def unpublished(self) -> int:
        """How many of the unanswered records are not in the topic."""
        return min(max(self.missing - self.failed - self.deleted, 0), self.unanswered)


class Run(Struct, frozen=True, kw_only=True):
    """One run of one agent: it holds when ``problems`` is empty; ``notes`` are harmless."""

    host_id: str
    host: str
    agent_epoch: int
    interfaces: list[Interface]
    topics: list[Topic]
    problems: list[str]
    notes: list[str]


class Result(Struct, frozen=True):
    """All runs in the topics, oldest first.

    ``warnings`` name data that could not be read, such as a batch cut short at
    the end, and topics with values of several formats.
    """

    holds: bool
    runs: list[Run]
    warnings: list[str] = []

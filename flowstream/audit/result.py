"""Result of an audit: plain values, printed as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.terms import AGENT_KILLED

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


class Terms(Struct, frozen=True, kw_only=True):
    """Loss equation with its maps summed, of one interface in one run or in several."""

    seen: Amount
    flows: Amount
    no_flow: Amount
    losses: Amount
    in_doubt: Amount
    spool: Amount
    difference: Amount

    @classmethod
    def total(cls, parts: Iterable[Terms]) -> Terms:
        """Sum of all."""
        all_parts = list(parts)
        return cls(
            **{
                name: Amount.total(getattr(part, name) for part in all_parts)
                for name in cls.__struct_fields__
            }
        )


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
    netns: str
    """Network namespace in the counters record; empty for the agent's own."""
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
    previous_epochs: list[int]
    """Runs that this one names as the one whose link it took over: one, or none. The
    lowest and the highest where its records contradict each other."""
    next_epochs: list[int]
    """Runs that say that they took over this run's link: one, or none. More contradict
    each other."""

    @property
    def label(self) -> str:
        """Name, direction and namespace, for people."""
        name = self.if_name or f"ifindex {self.if_index}"
        place = f" (netns {self.netns})" if self.netns else ""
        key = AttachmentKey(self.if_index, self.flow_direction)
        return f"{name} {key.direction}{place}"

    @property
    def doubtful(self) -> Amount:
        """Packets and octets of all records in doubt."""
        return Amount.total(self.in_doubt.values())

    @property
    def killed(self) -> Amount:
        """Packets and octets of ``doubtful`` that were in a killed agent's memory.

        Not all of them need have been in a record with a ``seq``.
        """
        return Amount.total(loss for cause, loss in self.in_doubt.items() if cause == AGENT_KILLED)

    @property
    def waiting(self) -> Amount:
        """Packets and octets of the records that were in the spool."""
        return Amount(self.spool.packets, self.spool.l2_bytes)

    @property
    def terms(self) -> Terms:
        """The equation with its maps summed."""
        return Terms(
            seen=self.seen,
            flows=self.flows,
            no_flow=Amount.total(self.no_flow.values()),
            losses=Amount.total(self.losses.values()),
            in_doubt=self.doubtful,
            spool=self.waiting,
            difference=self.difference,
        )


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


class ChainRun(Struct, frozen=True, kw_only=True):
    """One run of a chain: the parts of its equation on the chain's interface."""

    agent_epoch: int
    previous_epochs: list[int]
    """As in ``Interface``; the first run of a chain has none."""
    counters: bool
    """Whether the topics have counters of this run on this interface."""
    final: bool
    """Whether the run is closed: its last counters record is final."""
    gapless: bool | None
    """Whether no packet is between the run before and this one: it took over the link of
    a run that is closed, and no other run did. None for the first run."""
    holds: bool
    """Whether the whole run holds."""
    terms: Terms


class Chain(Struct, frozen=True, kw_only=True):
    """Runs that took over each other's link on one interface and direction, in order.

    It holds when ``problems`` is empty: each of its runs holds, and each but the first
    follows on the one before without a gap. ``terms`` are the sums over its runs.
    """

    host_id: str
    host: str
    if_index: int
    label: str
    """Name, direction and namespace of the interface, of the last run that has them."""
    flow_direction: int
    runs: list[ChainRun]
    terms: Terms
    problems: list[str]
    notes: list[str]


class Result(Struct, frozen=True):
    """All runs in the topics, oldest first.

    ``warnings`` name data that could not be read, such as a batch cut short at
    the end, and topics with values of several formats. ``chains`` are those of the runs
    that took over links of others.
    """

    holds: bool
    runs: list[Run]
    warnings: list[str] = []
    chains: list[Chain] = []

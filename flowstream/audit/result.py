"""What an audit finds: plain values, printed as a table or as JSON."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

# msgspec reads the annotations at run time.
from flowstream.streams import Stream  # noqa: TC001

GAPS_SHOWN: Final = 5
"""How many ranges of missing numbers a topic's result names."""


class Amount(Struct, frozen=True):
    """Packets and the octets of their frames."""

    packets: int
    bytes: int


class Interface(Struct, frozen=True, kw_only=True):
    """The loss equation of one interface in one run.

    ``difference`` is what was received less what is accounted for: above zero
    something vanished, below zero something was counted twice.
    """

    in_if: int
    name: str
    counters: bool
    """Whether there is a counters record at all."""
    final: bool
    """Whether the last one is the run's last: only then the difference is exact."""
    rx: Amount
    flows: Amount
    non_ip: Amount
    malformed: Amount
    sampled_out: Amount
    counted: Amount
    losses: dict[str, Amount]
    difference: Amount

    @classmethod
    def without_counters(cls, in_if: int, flows: Amount) -> Interface:
        """Interface of which there are flow records only."""
        none = Amount(0, 0)
        return cls(
            in_if=in_if,
            name=f"ifindex {in_if}",
            counters=False,
            final=False,
            rx=none,
            flows=flows,
            non_ip=none,
            malformed=none,
            sampled_out=none,
            counted=none,
            losses={},
            difference=Amount(-flows.packets, -flows.bytes),
        )


class Topic(Struct, frozen=True, kw_only=True):
    """The sequence of one topic in one run.

    ``expected`` is how many records the run says that it made, None where it
    does not say; ``failed`` how many of them it counted as lost afterwards;
    ``missing`` those that are not there, of which ``gaps`` are the first
    ranges (first, last).
    """

    topic: str
    stream: Stream
    records: int
    first_seq: int | None
    last_seq: int | None
    expected: int | None
    failed: int
    missing: int
    gaps: list[tuple[int, int]]
    duplicates: int
    partitions: int


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
    """All runs that the topics tell of, oldest first.

    ``warnings`` says what could not be read, such as a batch cut short at the end,
    and where a topic has values of several formats.
    """

    holds: bool
    runs: list[Run]
    warnings: list[str] = []

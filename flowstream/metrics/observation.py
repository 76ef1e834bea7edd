"""The values of a scrape, and the interface through which a run provides them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.identity import Identity
    from flowstream.accounting.snapshot import Snapshot, SpoolState, TableState
    from flowstream.delivery.condition import Condition
    from flowstream.histogram import Distribution
    from flowstream.streams import Stream


class Fill(NamedTuple):
    """How full something is, and how full it can be, in the same unit."""

    used: int
    capacity: int


class Spool(NamedTuple):
    """The whole spool, and the limit of its size in octets, None for unlimited."""

    state: SpoolState
    limit: int | None


@dataclass(frozen=True, slots=True)
class Durations:
    """Distributions of the times that the stages of a run take."""

    latency: Mapping[Stream, Distribution]
    drain: Distribution
    encode: Distribution


@dataclass(frozen=True, slots=True)
class Observation:
    """A run at one moment; ``snapshots`` are of its attachments, one after the other.

    First come those that went, in that order, then those that are there. ``rings`` by name,
    in octets; ``queue`` in batches. ``reloads`` by result; ``configured_unix_s`` is when the
    configuration in force was read.
    """

    identity: Identity
    sink: str
    format: str
    condition: Condition
    snapshots: Sequence[Snapshot]
    spool: Spool | None
    table: TableState
    rings: Mapping[str, Fill]
    queue: Fill
    durations: Durations
    interfaces: int
    failed_attaches: int
    reloads: Mapping[str, int]
    last_reload_failed: bool
    configured_unix_s: float


class Attached(NamedTuple):
    """An attachment, for people."""

    key: AttachmentKey
    interface: str
    netns: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a run observes and publishes: ``reason`` says why not, and is empty if it does.

    ``condition`` is the sink's, None before it has started and once the run is ending.
    """

    attached: Sequence[Attached]
    condition: Condition | None
    reason: str


class Observable(Protocol):
    """A run, for use from its event loop."""

    async def observe(self) -> Observation:
        """Read all counts; gives way to other work between attachments."""

    def health(self) -> Health:
        """Say whether the run observes and publishes."""

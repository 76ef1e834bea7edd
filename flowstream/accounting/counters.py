"""Makes the record of the counters topic out of kernel counts and books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

import msgspec

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.amounts import RecordAmount
from flowstream.records import SCHEMA_VERSION, CountersRecord, RecordType
from flowstream.records.counters import Amount, Loss, StageCounts
from flowstream.records.text import utf8_text
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.ledger import Account, StageCount
    from flowstream.encode import Identity
    from flowstream.kernel.clock import ClockPair
    from flowstream.kernel.link import Mode


class Loaded(Protocol):
    """A program in the kernel."""

    @property
    def id(self) -> int:
        """Its number, 0 when it has none."""

    @property
    def name(self) -> str:
        """Its name."""


class Counted(Protocol):
    """A program and the interface whose packets it counts."""

    @property
    def interface(self) -> str:
        """The interface's name."""

    @property
    def index(self) -> int:
        """The interface's index."""

    @property
    def flow_direction(self) -> int:
        """0 ingress, 1 egress (IPFIX 61)."""

    @property
    def mode(self) -> Mode:
        """Attach mode in force."""

    @property
    def program(self) -> Loaded:
        """The program that counts."""

    def counters(self) -> KernelCounts:
        """What the program counted."""


class Tables(Protocol):
    """The flow tables of a capture."""

    @property
    def max_flows(self) -> int:
        """Capacity of a table."""

    @property
    def swaps(self) -> int:
        """How often the tables were swapped."""

    def table_entries(self) -> int:
        """Entries in the active table, about."""


def counters_record(
    seq: int,
    identity: Identity,
    counted: Counted,
    account: Account,
    tables: Tables,
    now: ClockPair,
    *,
    interval_ns: int,
    counters_period_ns: int,
    final: bool,
) -> CountersRecord:
    """One attachment's counters, read now."""
    counts = counted.counters()
    # The mode in force is never AUTO, which no record could name.
    mode = cast("Literal['native', 'generic', 'offload']", counted.mode.value)
    return CountersRecord(
        record_type=RecordType.COUNTERS,
        schema_version=SCHEMA_VERSION,
        agent_epoch=identity.agent_epoch,
        host_id=identity.host_id,
        sampler_address=identity.sampler_address,
        seq=seq,
        host=identity.host,
        agent_version=__version__,
        if_index=counted.index,
        if_name=utf8_text(counted.interface),
        flow_direction=counted.flow_direction,
        program_name=counted.program.name,
        program_id=counted.program.id,
        attach_mode=mode,
        time_unix_ns=now.unix_ns,
        time_boot_ns=now.boot_ns,
        interval_ns=interval_ns,
        counters_period_ns=counters_period_ns,
        seen_packets=counts.seen.packets,
        seen_l2_bytes=counts.seen.l2_bytes,
        no_flow={reason: Amount(*counts.no_flow[reason]) for reason in terms.NO_FLOW},
        # A cause stands for one place where records are lost: the kernel's are its own.
        losses=_amounts(terms.LOSSES, counts.losses | account.losses),
        in_doubt=_amounts(terms.IN_DOUBT, account.in_doubt),
        stages={
            Stream.FLOWS: _stages(account.flows),
            Stream.NEW_FLOWS: _stages(account.new_flows),
        },
        table_entries=tables.table_entries(),
        table_capacity=tables.max_flows,
        table_swaps=tables.swaps,
        final=final,
    )


def _amounts(known: Iterable[str], amounts: Mapping[str, RecordAmount]) -> dict[str, Loss]:
    """Every known cause, 0 where nothing happened: engines infer columns from the first record."""
    none = RecordAmount()
    return {cause: Loss(*amounts.get(cause, none)) for cause in known}


def _stages(count: StageCount) -> StageCounts:
    return msgspec.convert(count, StageCounts, from_attributes=True)

"""Makes the record of the counters topic out of kernel counts and books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

import msgspec

from flowstream.records import SCHEMA_VERSION, CountersRecord, Loss, RecordType, StageCounts
from flowstream.records.text import utf8_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.counters import Account, KernelCounts, StageCount
    from flowstream.encode import Identity
    from flowstream.kernel.clock import ClockPair
    from flowstream.kernel.link import Mode
    from flowstream.kernel.program import Program
    from flowstream.pipeline import Ring


class Attached(Protocol):
    """A program on an interface."""

    interface: str
    index: int
    mode: Mode
    program: Program

    @property
    def rings(self) -> Sequence[Ring]:
        """Ring buffers of this interface alone."""

    def counters(self) -> KernelCounts:
        """What the program counted."""

    def detach(self) -> None:
        """Take the program off the interface; the counters can still be read."""

    def close(self) -> None:
        """Detach and give everything back."""


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
    attached: Attached,
    account: Account,
    tables: Tables,
    now: ClockPair,
    *,
    final: bool,
) -> CountersRecord:
    """One interface's counters, read now."""
    counts = attached.counters()
    # The mode in force is never AUTO, which no record could name.
    mode = cast("Literal['native', 'generic', 'offload']", attached.mode.value)
    kernel = {
        name: getattr(counts, name) for name in counts.__dataclass_fields__ if name != "losses"
    }
    # A cause stands for one place where records are lost: no key occurs in both.
    losses = counts.losses | account.losses
    return CountersRecord(
        record_type=RecordType.COUNTERS,
        schema_version=SCHEMA_VERSION,
        agent_epoch=identity.agent_epoch,
        host_id=identity.host_id,
        seq=seq,
        host=identity.host,
        in_if=attached.index,
        in_if_name=utf8_text(attached.interface),
        program_name=attached.program.name,
        program_id=attached.program.id,
        xdp_mode=mode,
        time_unix_ns=now.unix_ns,
        time_boot_ns=now.boot_ns,
        losses={cause: Loss(*loss) for cause, loss in losses.items()},
        flows=_stages(account.flows),
        new_flows=_stages(account.new_flows),
        table_entries=tables.table_entries(),
        table_capacity=tables.max_flows,
        table_swaps=tables.swaps,
        final=final,
        **kernel,
    )


def _stages(count: StageCount) -> StageCounts:
    return msgspec.convert(count, StageCounts, from_attributes=True)

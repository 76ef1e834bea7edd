"""Builds the record of the counters topic from a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import msgspec

from flowstream.records import SCHEMA_VERSION, CountersRecord, Loss, RecordType, StageCounts
from flowstream.records.text import utf8_text

if TYPE_CHECKING:
    from flowstream.accounting.identity import Identity
    from flowstream.accounting.ledger import StageCount
    from flowstream.accounting.snapshot import Snapshot


def counters_record(
    seq: int, identity: Identity, snapshot: Snapshot, *, final: bool
) -> CountersRecord:
    """Build one attachment's record; ``final`` says that no later one follows."""
    counts = snapshot.kernel
    mode = cast("Literal['native', 'generic', 'offload']", snapshot.mode)
    kernel = {
        name: getattr(counts, name) for name in counts.__dataclass_fields__ if name != "losses"
    }
    # A cause stands for one place where records are lost: no key occurs in both.
    losses = counts.losses | snapshot.account.losses
    return CountersRecord(
        record_type=RecordType.COUNTERS,
        schema_version=SCHEMA_VERSION,
        agent_epoch=identity.agent_epoch,
        host_id=identity.host_id,
        seq=seq,
        host=identity.host,
        in_if=snapshot.index,
        in_if_name=utf8_text(snapshot.interface),
        program_name=snapshot.program.name,
        program_id=snapshot.program.id,
        xdp_mode=mode,
        time_unix_ns=snapshot.time.unix_ns,
        time_boot_ns=snapshot.time.boot_ns,
        losses={cause: Loss(*loss) for cause, loss in losses.items()},
        flows=_stages(snapshot.account.flows),
        new_flows=_stages(snapshot.account.new_flows),
        table_entries=snapshot.table.entries,
        table_capacity=snapshot.table.capacity,
        table_swaps=snapshot.table.swaps,
        final=final,
        **kernel,
    )


def _stages(count: StageCount) -> StageCounts:
    return msgspec.convert(count, StageCounts, from_attributes=True)

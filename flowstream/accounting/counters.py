"""Builds the record of the counters topic from a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.snapshot import SpoolState
from flowstream.records import SCHEMA_VERSION, CountersRecord, RecordType
from flowstream.records.counters import Amount, Loss, SpoolCounts, StageCounts
from flowstream.records.text import interface_name, utf8_text
from flowstream.streams import FLOW_STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowstream.accounting.account import StageCount
    from flowstream.accounting.identity import Identity
    from flowstream.accounting.snapshot import Snapshot


class Rhythm(NamedTuple):
    """How often a run publishes, ns; 0 where it publishes once."""

    interval_ns: int
    counters_period_ns: int


_NO_SPOOL: Final = SpoolState()


def counters_record(
    seq: int,
    identity: Identity,
    rhythm: Rhythm,
    snapshot: Snapshot,
    *,
    final: bool,
    spool: SpoolState = _NO_SPOOL,
) -> CountersRecord:
    """Build one attachment's record; ``final`` says that its run makes no later one.

    ``spool`` is the state of the whole spool; what waits there of this attachment is in
    its account.
    """
    counts, account, facts = snapshot.kernel, snapshot.account, snapshot.facts
    return CountersRecord(
        record_type=RecordType.COUNTERS,
        schema_version=SCHEMA_VERSION,
        agent_epoch=identity.agent_epoch,
        host_id=identity.host_id,
        sampler_address=identity.sampler_address,
        seq=seq,
        host=identity.host,
        agent_version=__version__,
        if_index=snapshot.key.if_index,
        if_name=interface_name(facts.interface),
        flow_direction=snapshot.key.flow_direction,
        program_name=facts.program_name,
        program_id=facts.program_id,
        attach_mode=facts.mode,
        time_unix_ns=snapshot.time.unix_ns,
        time_boot_ns=snapshot.time.boot_ns,
        interval_ns=rhythm.interval_ns,
        counters_period_ns=rhythm.counters_period_ns,
        seen_packets=counts.seen.packets,
        seen_l2_bytes=counts.seen.l2_bytes,
        no_flow={reason: Amount(*counts.no_flow[reason]) for reason in terms.NO_FLOW},
        # Kernel and ledger count different causes: no key occurs in both.
        losses=_amounts(terms.LOSSES, counts.losses | account.losses),
        in_doubt=_amounts(terms.IN_DOUBT, account.in_doubt),
        stages={stream: _stages(account.stage(stream)) for stream in FLOW_STREAMS},
        table_entries=snapshot.table.entries,
        table_capacity=snapshot.table.capacity,
        table_swaps=snapshot.table.swaps,
        final=final,
        spool=SpoolCounts(*account.spool, *spool),
        netns=utf8_text(facts.netns),
        previous_epoch=facts.previous_epoch,
    )


def _amounts(known: Iterable[str], amounts: Mapping[str, RecordAmount]) -> dict[str, Loss]:
    """Every known cause, 0 where nothing happened: engines infer columns from the first record."""
    none = RecordAmount()
    return {
        cause: Loss(*amount) for cause, amount in {**dict.fromkeys(known, none), **amounts}.items()
    }


def _stages(count: StageCount) -> StageCounts:
    return msgspec.convert(count, StageCounts, from_attributes=True)

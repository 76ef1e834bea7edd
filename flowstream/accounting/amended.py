"""Amended counters records: an earlier run's books, after a later run lost records of it.

Records of a run that wait in the spool at its end are published by a later run.
What the later run loses of them stands in no counters of the earlier run. So the later
run publishes that run's last counters record once more, with these losses: the earlier
run's equation holds, and its consumers see counts that only grow. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.records.counters import NO_STAGE, Loss, SpoolCounts
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.accounting.outcomes import Gone
    from flowstream.accounting.snapshot import Moment, SpoolState
    from flowstream.records import CountersRecord


def amended(
    last: CountersRecord, gone: Iterable[Gone], *, seq: int, time: Moment, spool: SpoolState
) -> CountersRecord:
    """Return ``last`` with the part of ``gone`` that is of its run and attachment.

    ``last`` is the last counters record of its run and attachment, amended before or
    not. What is gone moves from its ``spool`` to ``losses`` and ``stages.failed``, or to
    ``in_doubt``. ``seq`` is a number of the counters topic that this run has not used; a
    gap before it is harmless, a number used twice is not. ``time`` is now, ``spool`` the
    state of the whole spool now. Publish it under the key that ``last`` had, also for
    counters records that are gone: ``last`` itself may be among them.

    What is gone may be more than what waited. A run that ended counted records as in doubt
    that it was still spooling when its time was over: those stay in doubt. A killed run may
    have spooled more than its last counters record says: all of it is lost.
    """
    key = AttachmentKey.of_record(last)
    losses, in_doubt, stages = dict(last.losses), dict(last.in_doubt), dict(last.stages)
    waiting = RecordAmount(last.spool.records, last.spool.packets, last.spool.l2_bytes)
    for each in gone:
        amount = each.amounts.get(key)
        if amount is None or each.agent_epoch != last.agent_epoch:
            continue
        if each.stream is Stream.COUNTERS:
            continue
        if last.final:
            amount = _least(amount, waiting)
        waiting = waiting.minus(_least(amount, waiting))
        _add(in_doubt if each.in_doubt else losses, each.cause, amount)
        if not each.in_doubt:
            stage = stages.get(each.stream, NO_STAGE)
            stages[each.stream] = msgspec.structs.replace(
                stage, failed=stage.failed + amount.records
            )
    return msgspec.structs.replace(
        last,
        seq=seq,
        time_unix_ns=time.unix_ns,
        time_boot_ns=time.boot_ns,
        losses=losses,
        in_doubt=in_doubt,
        stages=stages,
        spool=SpoolCounts(*waiting, *spool),
    )


def _least(one: RecordAmount, other: RecordAmount) -> RecordAmount:
    return RecordAmount(*map(min, one, other))


def _add(amounts: dict[str, Loss], cause: str, amount: RecordAmount) -> None:
    before = amounts.get(cause, Loss(0, 0, 0))
    amounts[cause] = Loss(
        before.records + amount.records,
        before.packets + amount.packets,
        before.l2_bytes + amount.l2_bytes,
    )

"""A run as its metrics show it, made by hand."""

from __future__ import annotations

import numpy as np

from flowstream.accounting import terms
from flowstream.accounting.account import Account, StageCount
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.identity import Identity
from flowstream.accounting.snapshot import Moment, Snapshot, SpoolState, TableState
from flowstream.delivery.condition import Condition
from flowstream.histogram import Histogram
from flowstream.metrics.observation import Durations, Fill, Observation, Spool
from flowstream.streams import Stream
from support.records import EPOCH, SAMPLER

HOST_ID = bytes(range(16))
TABLE = TableState(7, 64, 11)
NO_FLOW = {reason: Amount(0, 0) for reason in terms.NO_FLOW}
KERNEL = KernelCounts(
    Amount(1_009, 100_003),
    NO_FLOW | {"non_ip": Amount(5, 301), "malformed": Amount(2, 61)},
    {
        terms.OVERFLOW_LOST: RecordAmount(3, 3, 181),
        terms.ANNOUNCEMENT_LOST: RecordAmount(17, 0, 0),
    },
)
ACCOUNT = Account(
    flows=StageCount(drained=90, encoded=80, acknowledged=60, failed=7),
    new_flows=StageCount(encoded=41, acknowledged=37),
    acknowledged=Amount(700, 70_001),
    losses={terms.DELIVERY_TIMEOUT: RecordAmount(7, 19, 1_901)},
    in_doubt={terms.SHUTDOWN: RecordAmount(4, 23, 2_309)},
    spool=RecordAmount(9, 101, 10_103),
)


def snapshot(key: AttachmentKey, facts: Facts) -> Snapshot:
    return Snapshot(key, facts, Moment(0, 0), KERNEL, ACCOUNT, TABLE)


def histogram(*seconds: float) -> Histogram:
    made = Histogram((0.5, 1.0, 2.5))
    made.observe_all(np.array(seconds))
    return made


def observation(*snapshots: Snapshot) -> Observation:
    none = histogram().distribution()
    return Observation(
        identity=Identity(EPOCH, HOST_ID, "host-a", SAMPLER),
        sink="kafka://10.0.0.1:9092",
        format="json",
        condition=Condition.SPOOLING,
        snapshots=snapshots or (snapshot(AttachmentKey(3), Facts("eth0", program_id=41)),),
        spool=Spool(SpoolState(4_096, 1_700_000_000_500_000_000), 1 << 30),
        table=TABLE,
        rings={"overflow": Fill(264, 1 << 24), "announcements": Fill(0, 1 << 22)},
        queue=Fill(3, 16),
        durations=Durations(
            {Stream.FLOWS: histogram(0.5, 0.75, 7.0).distribution(), Stream.NEW_FLOWS: none},
            none,
            none,
        ),
        interfaces=2,
        failed_attaches=13,
        reloads={"success": 2, "failure": 1},
        last_reload_failed=True,
        configured_unix_s=1_700_000_000.25,
    )

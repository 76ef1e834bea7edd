"""The message of a counters record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.accounting.tally import Tally
from flowstream.encode.partition import counters_key, counters_partition
from flowstream.messages import MessageBatch
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.encode.encoder import Encoder
    from flowstream.records import CountersRecord


def counters_batch(
    record: CountersRecord, encoder: Encoder, topic: str, partitions: int
) -> MessageBatch:
    """Return a batch of one counters record for ``topic``, which has that many partitions.

    All counters of a host go to one partition, so that they stay in order.
    """
    return MessageBatch(
        stream=Stream.COUNTERS,
        topic=topic,
        partition=counters_partition(record, partitions),
        timestamps_ms=[record.time_unix_ns // 1_000_000],
        keys=[counters_key(record)],
        values=[encoder.encode_counters(record)],
        tally=Tally.empty(1),
        agent_epoch=record.agent_epoch,
    )

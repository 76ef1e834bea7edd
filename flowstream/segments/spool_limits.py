"""Segments of the spool that are given up: those deleted, then the oldest beyond the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.accounting import terms
from flowstream.segments.retention import ACTIVE_SHARE

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowstream.segments.retention import Retention
    from flowstream.segments.spool_partition import SpoolPartition


def apply(retention: Retention, partitions: Collection[SpoolPartition], now_ms: int) -> None:
    """Give up what was deleted or is beyond the limits; ``OSError`` where it cannot be read."""
    for partition in partitions:
        partition.give_up_deleted()
    if retention.age_ms is not None:
        for partition in partitions:
            partition.roll(now_ms - retention.age_ms // ACTIVE_SHARE)
            _expire(partition, now_ms - retention.age_ms)
    if retention.size is not None:
        _make_room(partitions, retention.size)


def _expire(partition: SpoolPartition, before_ms: int) -> None:
    while (oldest := partition.oldest()) is not None and oldest.newest_ms < before_ms:
        partition.give_up(oldest, terms.SPOOL_EXPIRED)


def _make_room(partitions: Collection[SpoolPartition], size: int) -> None:
    total = sum(segment.octets for partition in partitions for segment in partition.waiting())
    while total > size:
        candidates = [(each, each.oldest()) for each in partitions]
        waiting = [(each, segment) for each, segment in candidates if segment is not None]
        partition, oldest = min(waiting, key=lambda pair: pair[1].newest_ms)
        partition.give_up(oldest, terms.SPOOL_FULL)
        total -= oldest.octets

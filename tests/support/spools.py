"""For tests of the spool: batches with tallies, a spool, and what is read from it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.tally import Tally
from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool
from flowstream.segments.spooled import Lost
from flowstream.segments.tallies import sums_of
from flowstream.streams import Stream
from support.outcomes import TIMESTAMP_MS, make_batch, number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from flowstream.messages import MessageBatch
    from flowstream.segments.spooled import SpooledBatch

EPOCH: Final = 1_024_000
TOPIC: Final = "flowstream.flows"
PARTITIONS: Final = {TOPIC: 3}
KEYS: Final = (AttachmentKey(3, 0), AttachmentKey(5, 1))


def flows(
    first: int, count: int, partition: int = 0, *, size: int = 203, time_ms: int | None = None
) -> MessageBatch:
    """Flow records numbered from ``first`` on, of both attachments in turn.

    Record n has n % 7 + 1 packets and 61 octets each. Times begin at ``time_ms``, by
    default in the order of the numbers.
    """
    numbers = np.arange(first, first + count, dtype=np.uint64)
    packets = numbers % np.uint64(7) + np.uint64(1)
    codes = np.array([key.code for key in KEYS], np.uint64)[numbers % np.uint64(2)]
    start = TIMESTAMP_MS + first if time_ms is None else time_ms
    return dataclasses.replace(
        make_batch(TOPIC, partition, first, count, size),
        timestamps_ms=[start + n for n in range(count)],
        stream=Stream.FLOWS,
        tally=Tally(codes, packets, packets * np.uint64(61)),
    )


def amounts(numbers: Iterable[int]) -> dict[AttachmentKey, RecordAmount]:
    """Amounts of the records with these numbers, by attachment."""
    sums: dict[AttachmentKey, RecordAmount] = {}
    for n in numbers:
        packets = n % 7 + 1
        key = KEYS[n % 2]
        sums[key] = sums.get(key, RecordAmount()).plus(RecordAmount(1, packets, packets * 61))
    return sums


def opened(directory: Path, **options: Any) -> Spool:
    """A spool that is open, without limits and compression unless ``options`` have some."""
    spool = Spool(directory, **{"retention": Retention(), "compression": "none", **options})
    spool.open(PARTITIONS)
    return spool


def append(spool: Spool, batch: MessageBatch, epoch: int = EPOCH) -> None:
    assert spool.append(batch, epoch) == (len(batch), None)


def filled(directory: Path, *counts: int, **options: Any) -> None:
    """Leave a spool as a killed process leaves it: batches of these sizes in partition 0."""
    spool = opened(directory, **options)
    first = 0
    for count in counts:
        append(spool, flows(first, count))
        first += count
    spool.close()


def unread(spool: Spool) -> list[SpooledBatch]:
    """Read everything."""
    found = []
    while (batch := spool.read()) is not None:
        found.append(batch)
    return found


def numbers(batches: Iterable[SpooledBatch]) -> list[int]:
    return [number(value) for each in batches for value in each.batch.values if value]


def drain(spool: Spool) -> list[int]:
    """Read, acknowledge and make final; return the numbers."""
    found = unread(spool)
    for each in found:
        spool.acknowledge(each)
    spool.save()
    return numbers(found)


def lost(numbers: Collection[int], cause: str, *, in_doubt: bool = False) -> Lost:
    """Flow records with these numbers that left the spool unpublished."""
    sums = sums_of(amounts(numbers))
    return Lost(EPOCH, Stream.FLOWS, in_doubt, cause, len(numbers), sums)


def records_gone(gone: Iterable[Lost]) -> int:
    return sum(each.records for each in gone)


def files(directory: Path, suffix: str = "") -> list[str]:
    """Names of the files of all partitions."""
    found = directory.glob(f"*-*/*{suffix}")
    return sorted(str(path.relative_to(directory)) for path in found)


def log_of(directory: Path, base: int = 0, partition: int = 0) -> Path:
    return directory / f"{TOPIC}-{partition}" / f"{base:020}.log"


def tally_of(directory: Path, base: int = 0, partition: int = 0) -> Path:
    return log_of(directory, base, partition).with_suffix(".tally")

"""From an encoded batch to one batch per partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowstream.messages import MessageBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.accounting.tally import Tally
    from flowstream.streams import Stream


def split(
    stream: Stream,
    topic: str,
    values: Sequence[bytes],
    keys: NDArray[np.uint8],
    partitions: NDArray[np.uint32],
    tally: Tally,
    timestamp_ms: int,
    agent_epoch: int,
) -> list[MessageBatch]:
    """Make one batch per partition that gets any record; order inside a partition is kept.

    ``agent_epoch`` is the run that made the records.
    ``values``, ``keys`` (n, 8), ``partitions`` (n,) and ``tally`` are parallel.
    """
    # numpy sorts 16-bit numbers by radix, in a fifth of the time.
    narrow = partitions.astype(np.uint16) if partitions.max(initial=0) < 1 << 16 else partitions
    order = np.argsort(narrow, kind="stable")
    sorted_partitions = partitions[order]
    sorted_values = [values[i] for i in order.tolist()]
    sorted_keys: list[bytes] = keys[order].view("V8").ravel().tolist()
    sorted_tally = tally[order]
    starts = np.flatnonzero(np.diff(sorted_partitions, prepend=-1)).tolist()
    ends = [*starts[1:], len(values)]
    return [
        MessageBatch(
            stream=stream,
            topic=topic,
            partition=int(sorted_partitions[start]),
            timestamps_ms=[timestamp_ms] * (end - start),
            keys=sorted_keys[start:end],
            values=sorted_values[start:end],
            tally=sorted_tally[start:end],
            agent_epoch=agent_epoch,
        )
        for start, end in zip(starts, ends, strict=bool(len(values)))
    ]

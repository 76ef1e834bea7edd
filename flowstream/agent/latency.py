"""Measures how long records take from their last packet to their acknowledgement."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from flowstream.histogram import LATENCIES, Histogram
from flowstream.streams import FLOW_STREAMS, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.accounting.ledgers import RunBatch
    from flowstream.histogram import Distribution


class Latency:
    """Distributions of latency by stream, of records whose tally has the time."""

    def __init__(self) -> None:
        self._by_stream = {each: Histogram(LATENCIES) for each in FLOW_STREAMS}

    def acknowledged(self, batch: RunBatch, part: slice) -> None:
        """Measure these records, which are published now."""
        if batch.tally is None or batch.stream not in self._by_stream:
            return
        if (ends := batch.tally[part].ends_ns) is not None:
            # Clocks may be set: no negative duration.
            ages = np.maximum(time.time_ns() - ends.astype(np.int64), 0)
            self._by_stream[batch.stream].observe_all(ages / 1e9)

    def distributions(self) -> Mapping[Stream, Distribution]:
        """Return what was measured so far."""
        return {stream: each.distribution() for stream, each in self._by_stream.items()}

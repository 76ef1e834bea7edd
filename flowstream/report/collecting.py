"""What a report shows of the records, added up while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.closing import Closing
from flowstream.errors import SourceError
from flowstream.reading.selection import decoded
from flowstream.report.bins import TimeBins
from flowstream.report.keyed import KeyedSums
from flowstream.report.rows import FLOW, MOST_PLACES, Flows, flow_rows
from flowstream.streams import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.audit.columns import Columns
    from flowstream.reading import Selection
    from flowstream.records import CountersRecord

PROTOCOL_NUMBERS: Final = 256
"""How many protocol numbers there are, 0 to 255."""
_BLOCK: Final = 1 << 16
"""Records that are added at once: a step costs the more, the fewer there are."""
_RATES: Final = 64
"""Sampling rates from which on no more are noted."""
_CODE_BITS: Final = 40
"""Room for the code of an attachment, which has 33 bits."""


class Place(NamedTuple):
    """Where a host sees packets, in whichever run."""

    host_id: bytes
    if_index: int
    flow_direction: int


class LastCounters(NamedTuple):
    """When counters of a run were last read, and how long it was to the next."""

    time_unix_ns: int = 0
    period_ns: int = 0


class Collector(Closing):
    """Observes an audit. Memory is bounded, but for a few octets for each run and place.

    ``traffic`` are frame octets by direction and protocol over time (group
    ``direction * PROTOCOL_NUMBERS + proto``), ``announced`` announcements by direction, ``flows``
    all flows. Amounts of sampled records are multiplied by their rate, the rates, or
    the first of them, are in ``sampling``.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self.traffic, self.announced = TimeBins(2 * PROTOCOL_NUMBERS), TimeBins(2)
        self.flows = KeyedSums(FLOW, together=6)
        self.records = 0
        """Flow records selected."""
        self.merged_flows = 0
        """Flows that the agent merged into records of several."""
        self.sampling: set[int] = set()
        self.places: dict[Place, int] = {}
        self.last_counters: dict[tuple[bytes, int], LastCounters] = {}
        """By host and epoch."""
        self._blocks: dict[Stream, list[NDArray[np.void]]] = {
            Stream.FLOWS: [],
            Stream.NEW_FLOWS: [],
        }
        self._directions = np.zeros(0, np.intp)

    def close(self) -> None:
        """Remove temporary files."""
        self.flows.close()

    def observe_flows(self, stream: Stream, columns: Columns, fresh: NDArray[np.bool_]) -> None:
        """See ``flowstream.audit.Observer``."""
        chosen = fresh & self._chosen(columns)
        if not chosen.any():
            return
        rows = flow_rows(columns.fields, self._numbers(columns))[chosen]
        blocks = self._blocks[stream]
        blocks.append(rows)
        if stream is Stream.FLOWS:
            self._note(columns, chosen)
        if sum(map(len, blocks)) >= _BLOCK:
            self._add(stream)

    def observe_counters(self, record: CountersRecord) -> None:
        """See ``flowstream.audit.Observer``."""
        run = record.host_id, record.agent_epoch
        last = LastCounters(record.time_unix_ns, record.counters_period_ns)
        self.last_counters[run] = max(last, self.last_counters.get(run, last))

    def finish(self) -> None:
        """Add what waits to be added."""
        for stream in self._blocks:
            self._add(stream)

    def directions(self) -> NDArray[np.intp]:
        """Direction of each place."""
        if len(self._directions) != len(self.places):
            self._directions = np.array([place.flow_direction for place in self.places], np.intp)
        return self._directions

    def views(self) -> NDArray[np.uint64]:
        """Number of host and direction of each place."""
        numbers: dict[tuple[bytes, int], int] = {}
        found = [
            numbers.setdefault((place.host_id, place.flow_direction), len(numbers))
            for place in self.places
        ]
        return np.array(found, np.uint64)

    def _chosen(self, columns: Columns) -> NDArray[np.bool_]:
        """Mark the records that the selection chooses; True for all where it is empty."""
        chosen = np.ones(len(columns.seq), np.bool_)
        selection = self._selection
        if selection.since_ms is not None or selection.until_ms is not None:
            times = [message.timestamp_ms for message in columns.messages]
            inside = np.array(times, np.int64)
            if selection.since_ms is not None:
                chosen &= inside >= selection.since_ms
            if selection.until_ms is not None:
                chosen &= inside < selection.until_ms
        if selection.where is not None:
            matches = selection.where.matches
            chosen &= np.array([matches(decoded(each)) for each in columns.messages], np.bool_)
        return chosen

    def _numbers(self, columns: Columns) -> NDArray[np.uint64]:
        """Number of the place of each record."""
        codes, which = np.unique(
            columns.run.astype(np.uint64) << np.uint64(_CODE_BITS) | columns.tally.attachments,
            return_inverse=True,
        )
        known = []
        for code in codes.tolist():
            host_id = columns.runs[code >> _CODE_BITS].host_id
            place = Place(host_id, *AttachmentKey.of_code(code & (1 << _CODE_BITS) - 1))
            known.append(self.places.setdefault(place, len(self.places)))
        if len(self.places) > MOST_PLACES:
            raise SourceError(f"more than {MOST_PLACES:,} interfaces: select some by --where")
        return np.array(known, np.uint64)[which]

    def _note(self, columns: Columns, chosen: NDArray[np.bool_]) -> None:
        self.records += int(np.count_nonzero(chosen))
        if len(self.sampling) < _RATES:
            rates = columns.fields.integers("sampling_rate")[chosen]
            self.sampling.update(np.unique(rates).tolist())
        counts = columns.fields.integers("flow_count")[chosen]
        self.merged_flows += sum(counts[counts > 1].tolist())

    def _add(self, stream: Stream) -> None:
        blocks = self._blocks[stream]
        if not blocks:
            return
        flows = Flows(np.concatenate(blocks, dtype=FLOW))
        blocks.clear()
        rows, direction = flows.rows, self.directions()[flows.place]
        if stream is Stream.NEW_FLOWS:
            self.announced.add(direction, rows["sums"][:, 2], rows["start"], rows["start"])
            return
        group = direction * PROTOCOL_NUMBERS + flows.proto.astype(np.intp)
        self.traffic.add(group, rows["sums"][:, 0], rows["start"], rows["end"])
        self.flows.add(rows)

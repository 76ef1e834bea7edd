"""Everything that was read, added up: what the screen, the table and the document show."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from flowstream.errors import DecodeError
from flowstream.reading.selection import decoded
from flowstream.records import CountersRecord, RecordType
from flowstream.top.flows import Decoder
from flowstream.top.grouping import GROUPS
from flowstream.top.interfaces import Interfaces
from flowstream.top.table import AMOUNTS, Table
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.messages import Message
    from flowstream.reading.where import Condition
    from flowstream.top.interfaces import Interface
    from flowstream.top.table import TableSums

MARKS: Final = 10
"""Moments that a table keeps: rates are those between the oldest and now."""
_MOST: Final = 8_192
_S: Final = 1e-9


class Figures(msgspec.Struct, frozen=True):
    """Sums: frame octets, packets, flow records, and flows that were announced as new."""

    l2_bytes: int
    packets: int
    records: int
    new_flows: int


class Sums(NamedTuple):
    """Sums of one row since the beginning, and those of late, of which rates are made."""

    total: Figures
    late: Figures


class Row(NamedTuple):
    """One row of the table; a ``Group`` reads its key."""

    key: bytes
    sums: Sums


class Order(NamedTuple):
    """The order of rows: by one of ``AMOUNTS``, of late or since the beginning, largest first."""

    amount: str = AMOUNTS[0]
    late: bool = True
    reverse: bool = False


class State(NamedTuple):
    """What is known at one moment besides the tables.

    ``seconds`` is the time of the sums of late. ``lag_s`` is how long before it was read the
    newest record was made, None before the first; ``idle_s`` is for how long no record has come.
    ``read`` and ``skipped`` are records; ``skipping`` says that some were skipped of late.
    """

    seconds: float
    interfaces: list[Interface]
    lag_s: float | None
    idle_s: float
    read: int
    skipped: int
    skipping: bool
    notes: list[str]


class View(NamedTuple):
    """A part of one group's table, and the sums of ``all`` of it.

    ``rows`` are some out of ``row_count``; ``others`` are the sums of ``evicted`` rows that
    were too small to be kept.
    """

    state: State
    rows: list[Row]
    row_count: int
    others: Sums
    evicted: int
    all: Sums


class Snapshot(NamedTuple):
    """A model at one moment: what was added up since then is not in it."""

    state: State
    tables: dict[str, TableSums]

    def view(self, group: str, order: Order, rows: slice) -> View:
        """Return some rows of a group's table in an order."""
        keys, total, late, evicted = self.tables[group]
        ranked = (late if order.late else total)[AMOUNTS.index(order.amount), 1:]
        places = np.argsort(ranked, kind="stable")
        chosen = (places if order.reverse else places[::-1])[rows] + 1
        return View(
            state=self.state,
            rows=[
                Row(keys[place], _sums(total[:, place], late[:, place]))
                for place in chosen.tolist()
            ],
            row_count=len(keys) - 1,
            others=_sums(total[:, 0], late[:, 0]),
            evicted=evicted,
            all=_sums(total.sum(axis=1), late.sum(axis=1)),
        )


class Model:
    """Sums of the records that were read, in bounded memory. Threads may share it.

    ``seconds`` is the time over which rates are averaged, for which ``mark`` is called
    ``MARKS`` times in it. Where ``whole``, everything that was read is averaged, by the
    records' own times.
    """

    def __init__(self, seconds: float, *, whole: bool) -> None:
        self._lock = threading.Lock()
        self._whole = whole
        self._decoder = Decoder()
        self._direction: int | None = None
        self._interfaces = Interfaces(seconds, whole=whole)
        self._bad_counters = 0
        self._sampled = 1
        self.notes: Sequence[str] = ()
        self.skipped = 0
        self._begun = False
        self._reset()

    def select(self, where: Condition | None, direction: int | None) -> None:
        """Add up only records for which a condition holds, of one direction; begin anew."""
        with self._lock:
            self._decoder, self._direction = Decoder(where), direction
            self._reset()

    def _reset(self) -> None:
        self._tables = {name: (group.keys, Table(_MOST, MARKS)) for name, group in GROUPS.items()}
        self._times = deque([(time.monotonic(), self.skipped)], MARKS)
        self._span_ns = (2**64 - 1, 0)
        self._lag_s: float | None = None
        self._read_at = time.monotonic()
        self._read, self._skipped_before = 0, self.skipped

    def _begin(self) -> None:
        """Let time count from the first message on."""
        if not self._begun:
            self._begun = True
            self._times = deque([(time.monotonic(), self._skipped_before)], MARKS)

    def mark(self) -> None:
        """Rates begin at the mark that is ``MARKS`` before this one."""
        with self._lock:
            if not self._begun:
                return
            self._times.append((time.monotonic(), self.skipped))
            for _, table in self._tables.values():
                table.mark()

    def add_counters(self, messages: Sequence[Message]) -> None:
        """Add messages of the counters topic; values that are not counters are counted."""
        for message in messages:
            try:
                record = decoded(message)
            except DecodeError:
                record = None
            with self._lock:
                self._begin()
                if isinstance(record, CountersRecord):
                    self._interfaces.add(record)
                else:
                    self._bad_counters += 1

    def add_flows(self, messages: Sequence[Message]) -> None:
        """Add messages of flow records or announcements."""
        decoder = self._decoder
        flows = decoder(messages)
        with self._lock:
            if decoder is not self._decoder:
                # Chosen by an earlier condition.
                return
            self._begin()
            self._read += len(messages)
            self._read_at = time.monotonic()
            if len(flows):
                newest = int(flows["time_received_ns"].max())
                self._lag_s = max(time.time_ns() - newest, 0) * _S
            if self._direction is not None:
                flows = flows[flows["flow_direction"] == self._direction]
            if len(flows):
                self._add(flows)

    def _add(self, flows: NDArray[np.void]) -> None:
        is_new = flows["record_type"] == RecordType.NEW_FLOW
        amounts = (
            *(flows[name] for name in ("l2_bytes", "packets")),
            (~is_new).astype(np.uint64),
            is_new.astype(np.uint64),
        )
        for keys, table in self._tables.values():
            table.add(keys(flows), amounts)
        self._sampled = max(self._sampled, int(flows["sampling_rate"].max()))
        first, last = self._span_ns
        self._span_ns = (
            min(first, int(flows["time_flow_start_ns"].min())),
            max(last, int(flows["time_flow_end_ns"].max())),
        )

    def snapshot(self) -> Snapshot:
        """Return the present sums."""
        with self._lock:
            return self._snapshot()

    def take(self) -> Snapshot:
        """Return the present sums and begin anew with all but those of the interfaces."""
        with self._lock:
            taken = self._snapshot()
            self._reset()
        return taken

    def _snapshot(self) -> Snapshot:
        tables = {name: table.sums() for name, (_, table) in self._tables.items()}
        if self._whole:
            tables = {name: each._replace(late=each.total) for name, each in tables.items()}
        state = State(
            seconds=self._seconds(),
            interfaces=self._interfaces.read(),
            lag_s=self._lag_s,
            idle_s=time.monotonic() - self._read_at,
            read=self._read,
            skipped=self.skipped - self._skipped_before,
            skipping=self.skipped > self._times[0][1],
            notes=self._notes(),
        )
        return Snapshot(state, tables)

    def _seconds(self) -> float:
        if self._whole:
            first, last = self._span_ns
            return max(last - first, 0) * _S
        return time.monotonic() - self._times[0][0]

    def _notes(self) -> list[str]:
        notes = list(self.notes)
        if bad := self._decoder.bad:
            are = counted(bad, "value is not a flow record", "values are not flow records")
            notes.append(f"{are}, and left out: {self._decoder.first_bad}")
        if self._bad_counters:
            notes.append(f"{counted(self._bad_counters, 'value')} of counters not read")
        if self._interfaces.left_out:
            notes.append(f"{counted(self._interfaces.left_out, 'interface')} left out")
        if self._sampled > 1:
            notes.append(f"sampled, up to 1 packet in {self._sampled:,}: amounts are as counted")
        return notes


def _sums(total: NDArray[np.uint64], late: NDArray[np.uint64]) -> Sums:
    return Sums(Figures(*total.tolist()), Figures(*late.tolist()))

"""The two flow tables that programs reach through one slot, and how they are drained."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import clock, records
from flowstream.kernel.maps import HashMap, MapOfMaps
from flowstream.layouts import flow as layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.kernel.object import KernelObject
    from flowstream.kernel.rates import Rates

TABLE: Final = "flow_table"
SLOT: Final = "active_table"


class FlowTables(Closing):
    """Two flow tables, one of them in the slot: the active one.

    None is known to be active at first: see ``create`` and ``freeze``. ``rates`` labels
    their records. The methods that wait for a grace period (up to about
    100 ms) or drain (0.7 µs per flow) block: call them from a worker thread, one at a time.
    """

    def __init__(self, tables: Sequence[HashMap], slot: MapOfMaps, rates: Rates) -> None:
        self.maps, self.slot, self.rates = tuple(tables), slot, rates
        self.swaps = 0
        self._active: HashMap | None = None
        self._is_stopped = False
        self._lock = threading.Lock()

    @classmethod
    def create(cls, obj: KernelObject, max_flows: int, rates: Rates) -> Self:
        """Make empty tables for ``max_flows`` flows each; the first one is active."""
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(
                    HashMap(obj.map(TABLE), layout.FLOW_KEY, layout.FLOW_VALUE, max_flows)
                )
                for _ in range(2)
            )
            slot = stack.enter_context(MapOfMaps(obj.map(SLOT), inner_fd=first.fd))
            made = cls((first, second), slot, rates)
            made._put(first)
            stack.pop_all()
        return made

    @property
    def capacity(self) -> int:
        """Flows that each of the tables holds."""
        return self.maps[0].max_entries

    @property
    def active(self) -> HashMap:
        """The table in the slot."""
        if self._active is None:
            raise KernelError("no flow table is active")
        return self._active

    def swap(self) -> None:
        """Make the other table the active one; returns when no program writes to the old one.

        Does nothing once stopped.
        """
        with self._lock:
            if self._is_stopped:
                return
            self._put(next(each for each in self.maps if each is not self._active))
            self.swaps += 1
            self.rates.swapped()

    def stop(self) -> None:
        """Take the tables from programs for good: those that still run count nothing any more.

        Returns when none writes to a table or to counters; none is active then.
        """
        with self._lock:
            self.slot.empty()
            self._active, self._is_stopped = None, True

    def freeze(self) -> None:
        """Wait until the last runs of programs that are no longer attached have ended.

        Call it when none is: then neither table is active, and nothing that they reach
        changes any more.
        """
        with self._lock:
            self._put(self.maps[0])
            self._active = None

    def _put(self, table: HashMap) -> None:
        self.slot.put(table)
        self._active = table

    def drain_inactive(self, end_reason: int) -> Iterator[NDArray[np.void]]:
        """Drain what is not active, until it is empty or becomes active: flow records.

        The lock is held within a step only: whoever abandons the iteration, and in
        whatever thread, holds up nobody. A table must not be drained once it is active,
        since programs would still add to the entries that were taken out.
        """
        with self._lock:
            inactive = [each for each in self.maps if each is not self._active]
        for table in inactive:
            yield from self._drain(table, end_reason)

    def _drain(self, table: HashMap, end_reason: int) -> Iterator[NDArray[np.void]]:
        batches = table.drain()
        while True:
            with self._lock:
                if table is self._active:
                    return
                entries = next(batches, None)
            if entries is None:
                return
            keys, values = entries
            yield records.from_table(keys, values, end_reason, self.rates.of(keys), clock.now())

    def close(self) -> None:
        """Release the maps; harmless twice."""
        for each in (*self.maps, self.slot):
            each.close()

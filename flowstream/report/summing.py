"""From flows to tables: pairs of addresses, addresses, services, sizes and durations."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.report.bins import counts_between, edges_1_2_5
from flowstream.report.keyed import KeyedSums
from flowstream.report.rows import ADDRESS, PAIR, SERVICE, Flows, Pairs, pair_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowstream.report.collecting import Collector

SHOWN: Final = 20
"""Talkers, conversations and services in the tables; the others are summed."""
OCTET_EDGES: Final = edges_1_2_5(1, 15)
"""Octets of flows: 10, 20, 50, ... 5e15."""
NS_EDGES: Final = np.array(
    [
        1,
        *(n * 1e6 for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        *(n * 1e9 for n in (1, 2, 5, 10, 30)),
        *(n * 60e9 for n in (1, 2, 5, 10, 30)),
        *(n * 3_600e9 for n in (1, 2, 5, 12)),
        *(n * 86_400e9 for n in (1, 2, 5, 10, 30, 100)),
    ]
)
"""Durations of flows in ns, round in the units of people; those of 0 are below the first edge."""


class Top(NamedTuple):
    """The largest rows of a table, and the sums of all with their number."""

    rows: NDArray[np.void]
    sums: NDArray[np.float64]
    number: int


class Summed(NamedTuple):
    """Tables of a report. ``sizes`` and ``durations`` count flows, by direction."""

    flows: NDArray[np.intp]
    sizes: NDArray[np.intp]
    durations: NDArray[np.intp]
    services: Top
    conversations: Top
    talkers: Top


class Largest:
    """The rows with the largest amounts, of many."""

    def __init__(self, kind: np.dtype[np.void]) -> None:
        self._rows = np.empty(0, kind)
        self._amounts = np.empty(0)
        self._sums = np.zeros(kind["sums"].shape)
        self._count = 0

    def add(self, rows: NDArray[np.void], amounts: NDArray[np.float64]) -> None:
        """Add rows, all different; ``amounts`` decide, of shape (n,)."""
        self._sums += rows["sums"].sum(axis=0)
        self._count += len(rows)
        rows, amounts = (
            np.concatenate([self._rows, rows]),
            np.concatenate([self._amounts, amounts]),
        )
        # Where amounts are the same the key decides: the page does not depend on chance.
        keys = [rows["key"][:, n] for n in reversed(range(rows["key"].shape[1]))]
        order = np.lexsort([*keys, -amounts])[:SHOWN]
        self._rows, self._amounts = rows[order], amounts[order]

    def top(self) -> Top:
        """Return the largest so far."""
        return Top(self._rows, self._sums, self._count)


class Summing:
    """Makes the tables in steps, which may be interleaved with other work."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._flows = np.zeros(2, np.intp)
        self._sizes = np.zeros((2, len(OCTET_EDGES) + 1), np.intp)
        self._durations = np.zeros((2, len(NS_EDGES) + 1), np.intp)
        self._services, self._conversations = Largest(SERVICE), Largest(PAIR)
        self._talkers = Largest(ADDRESS)

    def steps(self) -> Iterator[None]:
        """Do the work; it is done when the iterator ends."""
        with ExitStack() as stack:
            services = stack.enter_context(KeyedSums(SERVICE, together=1))
            pairs = stack.enter_context(KeyedSums(PAIR, together=5))
            addresses = stack.enter_context(KeyedSums(ADDRESS, together=3))
            directions, views = self._collector.directions(), self._collector.views()
            for rows in self._collector.flows.parts():
                flows = Flows(rows)
                direction = directions[flows.place]
                self._count(flows, direction)
                services.add(_service_rows(flows, direction))
                pairs.add(pair_rows(flows, views[flows.place]))
                yield
            for rows in pairs.parts():
                once = Pairs(_each_packet_once(rows))
                self._conversations.add(*_conversations(once))
                addresses.add(_address_rows(once))
                yield
            for rows in services.parts():
                self._services.add(rows, rows["sums"][:, :2].sum(axis=1))
                yield
            for rows in addresses.parts():
                self._talkers.add(rows, rows["sums"][:, :2].sum(axis=1))
                yield

    def result(self) -> Summed:
        """Return the tables."""
        return Summed(
            self._flows,
            self._sizes,
            self._durations,
            self._services.top(),
            self._conversations.top(),
            self._talkers.top(),
        )

    def _count(self, flows: Flows, direction: NDArray[np.intp]) -> None:
        for n in (INGRESS, EGRESS):
            mine = flows.rows[(direction == n) & ~flows.is_merged]
            self._flows[n] += len(mine)
            self._sizes[n] += counts_between(mine["sums"][:, 0], OCTET_EDGES)
            durations_ns = np.maximum(mine["end"], mine["start"]) - mine["start"]
            self._durations[n] += counts_between(durations_ns, NS_EDGES)


def _service_rows(flows: Flows, direction: NDArray[np.intp]) -> NDArray[np.void]:
    rows = np.empty(len(direction), SERVICE)
    rows["key"][:, 0] = flows.proto << np.uint64(16) | flows.service_port
    octets = flows.rows["sums"][:, 0]
    rows["sums"] = np.column_stack(
        [octets * (direction == INGRESS), octets * (direction == EGRESS), np.ones(len(octets))]
    )
    rows["start"], rows["end"] = flows.rows["start"], flows.rows["end"]
    return rows


def _each_packet_once(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Of each pair and direction of traffic the row of the place that saw most octets.

    A packet that a host forwards is seen on its way in and on its way out, and by the next
    host again.
    """
    key = rows["key"]
    columns = [-rows["sums"][:, 0], key[:, 5] & np.uint64(1), *(key[:, n] for n in range(5))]
    rows = rows[np.lexsort([key[:, 5], *columns])]
    key = rows["key"]
    differs = np.any(key[1:, :5] != key[:-1, :5], axis=1) | (
        (key[1:, 5] ^ key[:-1, 5]) & np.uint64(1) != 0
    )
    return rows[np.concatenate(([True], differs))[: len(rows)]]


def _conversations(pairs: Pairs) -> tuple[NDArray[np.void], NDArray[np.float64]]:
    """Return a row for each pair, and its octets of both directions.

    Its sums are octets from the lower address, from the higher one, and packets of both.
    """
    rows = pairs.rows
    differs = np.any(rows["key"][1:, :5] != rows["key"][:-1, :5], axis=1)
    starts = np.flatnonzero(np.concatenate(([True], differs))[: len(rows)])
    found = rows[starts]
    octets, packets, back = rows["sums"][:, 0], rows["sums"][:, 1], pairs.is_reversed
    if len(rows):
        sums = np.column_stack([octets * ~back, octets * back, packets])
        found["sums"] = np.add.reduceat(sums, starts)
    return found, found["sums"][:, :2].sum(axis=1)


def _address_rows(pairs: Pairs) -> NDArray[np.void]:
    """A row for each end of each pair and direction."""
    back = pairs.is_reversed[:, None]
    lower, higher = pairs.ends()
    octets, packets = pairs.rows["sums"][:, 0], pairs.rows["sums"][:, 1]
    nothing = np.zeros(len(octets))
    sides = []
    for end, sums in (
        (np.where(back, higher, lower), [octets, nothing, packets]),
        (np.where(back, lower, higher), [nothing, octets, packets]),
    ):
        rows = np.empty(len(octets), ADDRESS)
        rows["key"], rows["sums"] = end, np.column_stack(sums)
        rows["start"], rows["end"] = pairs.rows["start"], pairs.rows["end"]
        sides.append(rows)
    return np.concatenate(sides)

"""Flow records as the rows that a report sums: a row for each, by flow, pair and address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from flowstream.report.keyed import row_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.audit.fields import Fields

FLOW: Final = row_type(keys=6, sums=3)
"""Sums: frame octets, packets, records. Key: two addresses of two halves, then ``_PORTS``
and ``_REST``."""
PAIR: Final = row_type(keys=6, sums=3)
"""Sums: frame octets, packets, flows. Key: the lower address, the higher one, their networks
(``_NETWORKS``), and ``_VIEW``."""
ADDRESS: Final = row_type(keys=3, sums=3)
"""Sums: frame octets sent, received, and packets of both. Key: address, network."""
SERVICE: Final = row_type(keys=1, sums=3)
"""Sums: frame octets of ingress, of egress, and flows. Key: protocol and port."""

_PORTS: Final = {"src_port": 48, "dst_port": 32, "vlan_id": 16, "proto": 8, "icmp_type": 0}
_REST: Final = {"src_net": 56, "dst_net": 48, "etype": 32, "icmp_code": 24}
_PLACE_BITS: Final = 23
_MERGED: Final = np.uint64(1 << _PLACE_BITS)
MOST_PLACES: Final = 1 << _PLACE_BITS


class Flows(NamedTuple):
    """Rows of kind FLOW with the parts of their keys, of shape (n,)."""

    rows: NDArray[np.void]

    @property
    def place(self) -> NDArray[np.intp]:
        """Number of the place: a host's interface and direction."""
        return (self.rows["key"][:, 5] & (_MERGED - np.uint64(1))).astype(np.intp)

    @property
    def is_merged(self) -> NDArray[np.bool_]:
        """Whether the row stands for several flows that the agent merged."""
        return np.asarray(self.rows["key"][:, 5] & _MERGED, np.bool_)

    @property
    def proto(self) -> NDArray[np.uint64]:
        """Protocol number."""
        return self.part("proto", 0xFF)

    @property
    def service_port(self) -> NDArray[np.uint64]:
        """The lower of the two ports, 0 where the protocol has none."""
        source, destination = (self.part(name, 0xFFFF) for name in ("src_port", "dst_port"))
        lower = np.minimum(source, destination)
        return np.where(lower, lower, np.maximum(source, destination))

    def part(self, name: str, mask: int) -> NDArray[np.uint64]:
        """Return a field that is part of the key."""
        column, shift = (4, _PORTS[name]) if name in _PORTS else (5, _REST[name])
        return self.rows["key"][:, column] >> np.uint64(shift) & np.uint64(mask)


def flow_rows(fields: Fields, place: NDArray[np.uint64]) -> NDArray[np.void]:
    """Rows of kind FLOW, one for each record; amounts are multiplied by the sampling rate.

    ``place`` has shape (n,).
    """
    rows = np.empty(len(place), FLOW)
    key = rows["key"]
    key[:, :2], key[:, 2:4] = fields.addresses("src_addr"), fields.addresses("dst_addr")
    key[:, 4] = _packed(fields, _PORTS)
    merged = (fields.integers("flow_count") > 1).astype(np.uint64)
    key[:, 5] = _packed(fields, _REST) | merged << np.uint64(_PLACE_BITS) | place
    rate = np.maximum(fields.integers("sampling_rate").astype(float), 1)
    rows["sums"][:, 0] = fields.integers("l2_bytes") * rate
    rows["sums"][:, 1] = fields.integers("packets") * rate
    rows["sums"][:, 2] = 1
    rows["start"] = fields.integers("time_flow_start_ns")
    rows["end"] = fields.integers("time_flow_end_ns")
    return rows


def _packed(fields: Fields, shifts: dict[str, int]) -> Any:
    return np.bitwise_or.reduce(
        [fields.integers(name) << np.uint64(shift) for name, shift in shifts.items()]
    )


_REVERSED: Final = np.uint64(1)
_NET: Final = np.uint64(8)
_ETYPE: Final = np.uint64(16)


def pair_rows(flows: Flows, view: NDArray[np.uint64]) -> NDArray[np.void]:
    """Rows of kind PAIR, one for each flow.

    ``view`` numbers the host and direction that saw it, shape (n,).
    """
    rows = np.empty(len(view), PAIR)
    key, of_flow = rows["key"], flows.rows["key"]
    source, destination = of_flow[:, :2], of_flow[:, 2:4]
    first = (source[:, 0] < destination[:, 0]) | (
        (source[:, 0] == destination[:, 0]) & (source[:, 1] <= destination[:, 1])
    )
    key[:, :2] = np.where(first[:, None], source, destination)
    key[:, 2:4] = np.where(first[:, None], destination, source)
    nets = flows.part("src_net", 0xFF), flows.part("dst_net", 0xFF)
    lower, higher = np.where(first, nets[0], nets[1]), np.where(first, nets[1], nets[0])
    key[:, 4] = lower << _NET | higher | flows.part("etype", 0xFFFF) << _ETYPE
    key[:, 5] = view << _REVERSED | ~first
    rows["sums"] = flows.rows["sums"]
    rows["sums"][:, 2] = 1
    rows["start"], rows["end"] = flows.rows["start"], flows.rows["end"]
    return rows


class Pairs(NamedTuple):
    """Rows of kind PAIR, with the parts of their keys."""

    rows: NDArray[np.void]

    @property
    def is_reversed(self) -> NDArray[np.bool_]:
        """Whether the higher address is the source."""
        return np.asarray(self.rows["key"][:, 5] & _REVERSED, np.bool_)

    def ends(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return lower and higher end as keys of kind ADDRESS, shape (n, 3)."""
        key = self.rows["key"]
        etype = key[:, 4] >> _ETYPE << _ETYPE
        nets = key[:, 4] >> _NET & np.uint64(0xFF), key[:, 4] & np.uint64(0xFF)
        return tuple(  # type: ignore[return-value]
            np.column_stack([key[:, at : at + 2], etype | net])
            for at, net in zip((0, 2), nets, strict=True)
        )

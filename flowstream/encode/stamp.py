"""Writes the identity of a run and its sequence numbers into records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowstream.records.text import NAME_BYTES, interface_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from flowstream.accounting.identity import Identity


def stamp(records: NDArray[np.void], identity: Identity, first_seq: int) -> None:
    """Write run, host, agent address, sequence and interface names into records, in place.

    ``records`` has shape (n,) and dtype FLOW_RECORD; they get ``seq`` from
    ``first_seq`` to ``first_seq + n - 1``. An interface without a name in
    ``identity`` gets the empty one.
    """
    records["agent_epoch"] = identity.agent_epoch
    records["host_id"] = np.frombuffer(identity.host_id, np.uint8)
    records["sampler_address"] = np.frombuffer(identity.sampler_address, np.uint8)
    records["seq"] = np.arange(first_seq, first_seq + len(records), dtype=np.uint64)
    records["if_name"] = _names(records["if_index"].astype(np.uint32), identity.interfaces)


def _names(if_index: NDArray[np.uint32], interfaces: Mapping[int, str]) -> NDArray[np.uint8]:
    """Return the padded name of each interface, shape (n, NAME_BYTES)."""
    known = np.array(sorted(interfaces), np.uint32)
    # The last one is for interfaces without a name.
    names = np.zeros((len(known) + 1, NAME_BYTES), np.uint8)
    for row, index in enumerate(known.tolist()):
        names[row] = _padded(interfaces[index])
    rows = np.searchsorted(known, if_index)
    rows[np.append(known, 0)[rows] != if_index] = len(known)
    return names[rows]


def _padded(name: str) -> NDArray[np.uint8]:
    return np.frombuffer(interface_name(name).encode().ljust(NAME_BYTES, b"\0"), np.uint8)

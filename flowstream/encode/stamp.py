"""Writes the identity of a run and its sequence numbers into records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowstream.records.text import NAME_BYTES, interface_name

if TYPE_CHECKING:
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
    records["if_name"] = 0
    if_index = records["if_index"].astype(np.uint32)
    for index, name in identity.interfaces.items():
        records["if_name"][if_index == index] = _padded(name)


def _padded(name: str) -> NDArray[np.uint8]:
    return np.frombuffer(interface_name(name).encode().ljust(NAME_BYTES, b"\0"), np.uint8)

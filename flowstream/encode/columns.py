"""Columns of a batch that all formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.records.text import ETYPE_IPV4, V4_MAPPED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_V4_MAPPED: Final = np.frombuffer(V4_MAPPED, np.uint32)
_32_BITS: Final = np.uint64(0xFFFF_FFFF)

BLOCK_RECORDS: Final = 1_024
"""Records encoded at once: few enough that their columns stay in the CPU's cache."""


def number_column(records: NDArray[np.void], name: str) -> NDArray[Any]:
    """Column of numbers: a field of the record, or one that only named formats have."""
    match name:
        case "in_if":
            return np.where(records["flow_direction"] == 0, records["if_index"], np.uint32(0))
        case "out_if":
            return np.where(records["flow_direction"] == 1, records["if_index"], np.uint32(0))
        case "sequence_num":
            return records["seq"].astype(np.uint64) & _32_BITS
        case _:
            return records[name]


def is_ipv4(records: NDArray[np.void], name: str) -> NDArray[np.bool_]:
    """Whether each address of the column ``name`` is IPv4's, shape (n,).

    A v4-mapped address of an IPv6 packet stays IPv6. The agent's own address
    belongs to no packet.
    """
    mapped: NDArray[np.bool_] = (records[name][:, :12].view(np.uint32) == _V4_MAPPED).all(axis=1)
    if name != "sampler_address":
        mapped &= records["etype"] == ETYPE_IPV4
    return mapped


def name_text(padded: bytes) -> str:
    """Text of an ``if_name`` as the layout has it: without its NULs."""
    return padded.rstrip(b"\0").decode("utf-8", "replace")


def is_constant(column: NDArray[Any]) -> bool:
    """Whether all values of a column, which is not empty, are equal.

    Half of the columns hold one value in a whole block: this check costs a tenth of
    making a list.
    """
    return bool((column == column[0]).all())

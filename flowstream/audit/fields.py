"""Columns of flow records by the names of their fields, of whatever the values became."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flowstream.records.text import address_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Fields(Protocol):
    """Columns of n flow records; names are those of ``FlowRecord``."""

    def integers(self, name: str) -> NDArray[np.uint64]:
        """Return a column of integers, shape (n,)."""

    def addresses(self, name: str) -> NDArray[np.uint64]:
        """Return a column of addresses: their halves, the high one first, shape (n, 2)."""


class LayoutFields:
    """Fields of records of dtype FLOW_RECORD, shape (n,)."""

    def __init__(self, records: NDArray[np.void]) -> None:
        self._records = records

    def integers(self, name: str) -> NDArray[np.uint64]:
        """See ``Fields``."""
        return self._records[name].astype(np.uint64)

    def addresses(self, name: str) -> NDArray[np.uint64]:
        """See ``Fields``."""
        return np.ascontiguousarray(self._records[name]).view(">u8").astype(np.uint64)


class RecordFields:
    """Fields of ``FlowRecord`` or ``FlowJson``, which has addresses as text."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    def integers(self, name: str) -> NDArray[np.uint64]:
        """See ``Fields``."""
        return np.fromiter(map(attrgetter(name), self._records), np.uint64, len(self._records))

    def addresses(self, name: str) -> NDArray[np.uint64]:
        """See ``Fields``."""
        octets = b"".join(
            address_bytes(value) if isinstance(value, str) else value
            for value in map(attrgetter(name), self._records)
        )
        return np.frombuffer(octets, ">u8").reshape(-1, 2).astype(np.uint64)

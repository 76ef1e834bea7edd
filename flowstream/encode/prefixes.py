"""The prefixes before values that name their schemas in a schema registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from flowstream.records import RecordType


class Prefixes:
    """Prefix of a value by its record type. All have the same length, possibly 0."""

    def __init__(self, prefixes: Mapping[RecordType, bytes]) -> None:
        width = max(map(len, prefixes.values()), default=0)
        self._table = np.zeros((256, width), np.uint8)
        for record_type, prefix in prefixes.items():
            self._table[record_type] = np.frombuffer(prefix, np.uint8)

    def of(self, record_types: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Prefixes of records of these types, shape (n, width)."""
        return self._table[record_types]

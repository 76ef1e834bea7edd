"""Any content that the kernel may give a record, for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from flowstream.layouts.xdp_flow import FLOW_RECORD
from support.records import FIELDS


def any_columns() -> st.SearchStrategy[dict[str, object]]:
    """Arguments of ``flow_records``, one value for every field."""
    return st.fixed_dictionaries({field: _values(field) for field in FIELDS})


def _values(field: str) -> st.SearchStrategy[object]:
    """Any content that the kernel may give a field."""
    dtype = FLOW_RECORD[field]
    if field == "record_type":
        return st.integers(1, 2)
    if field == "schema_version":
        return st.just(1)
    if field == "in_if_name":
        names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=15)
        return (
            names.map(str.encode)
            .filter(lambda name: len(name) <= 15)
            .map(lambda name: np.frombuffer(name.ljust(15, b"\0"), np.uint8))
        )
    if dtype.subdtype:
        length = dtype.itemsize
        return st.binary(min_size=length, max_size=length).map(
            lambda value: np.frombuffer(value, np.uint8)
        )
    return st.integers(0, 256**dtype.itemsize - 1)

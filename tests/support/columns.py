"""Any content that the kernel may give a record, for property tests."""

from __future__ import annotations

from typing import Final

import numpy as np
from hypothesis import strategies as st

from flowstream.layouts.flow import FLOW_RECORD
from support.records import FIELDS


def any_columns() -> st.SearchStrategy[dict[str, object]]:
    """Arguments of ``flow_records``, one value for every field."""
    return st.fixed_dictionaries({field: _values(field) for field in FIELDS})


def _octets(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[object]:
    return values.map(lambda value: np.frombuffer(value, np.uint8))


# Some are v4-mapped, whatever the EtherType is.
_ADDRESSES: Final = _octets(
    st.binary(min_size=4, max_size=4).map(lambda ipv4: bytes(10) + b"\xff\xff" + ipv4)
    | st.binary(min_size=16, max_size=16)
)
_NAMES: Final = _octets(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=15)
    .map(str.encode)
    .filter(lambda name: len(name) <= 15)
    .map(lambda name: name.ljust(15, b"\0"))
)
_LIMITED: Final[dict[str, st.SearchStrategy[object]]] = {
    "record_type": st.integers(1, 2),
    "schema_version": st.just(1),
    "sampler_address": _ADDRESSES,
    "etype": st.sampled_from([0x0800, 0x86DD]) | st.integers(0, 0xFFFF),
    "src_addr": _ADDRESSES,
    "dst_addr": _ADDRESSES,
    "src_net": st.integers(0, 128),
    "dst_net": st.integers(0, 128),
    "if_name": _NAMES,
    "flow_direction": st.integers(0, 1),
}


def _values(field: str) -> st.SearchStrategy[object]:
    """Any content that the kernel may give a field."""
    if field in _LIMITED:
        return _LIMITED[field]
    dtype = FLOW_RECORD[field]
    if dtype.subdtype:
        return _octets(st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize))
    # Values stay below 2^63.
    return st.integers(0, min(256**dtype.itemsize, 2**63) - 1)

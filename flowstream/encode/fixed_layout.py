"""Published values of MessagePack's fixed layout, read in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from flowstream.errors import DecodeError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import SCHEMA_VERSION, FlowRecord, RecordType, decode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_FIELDS: Final[Mapping[str, Any]] = FLOW_RECORD.fields or {}
_HIGHEST_ASCII: Final = 0x7F
_FLOW_TYPES: Final = (RecordType.FLOW, RecordType.NEW_FLOW)


def octets_of(*prefixes: str) -> NDArray[np.bool_]:
    """Mark the octets of the fields whose name starts with one of these."""
    marked = np.zeros(FLOW_RECORD.itemsize, np.bool_)
    for name, (kind, start, *_) in _FIELDS.items():
        marked[start : start + kind.itemsize] = name.startswith(prefixes)
    return marked


def _highest() -> NDArray[np.uint8]:
    """Highest value of each octet of the layout that needs no further check.

    Bounds of integers are those of ``FlowRecord``; they show in the first octet.
    """
    highest = np.full(FLOW_RECORD.itemsize, 0xFF, np.uint8)
    info: Any = msgspec.inspect.type_info(FlowRecord)
    for field in info.fields:
        kind, start, *_ = _FIELDS[field.name]
        # A field with a description is wrapped.
        hint = getattr(field.type, "type", field.type)
        if isinstance(hint, msgspec.inspect.IntType):
            highest[start] = (hint.le or 0) >> 8 * (kind.itemsize - 1)
        elif isinstance(hint, msgspec.inspect.StrType):
            highest[start : start + kind.itemsize] = _HIGHEST_ASCII
    return highest


_TAGS: Final = octets_of("tag_", "size_", "array_")
_HIGHEST: Final = _highest()


def published_flows(values: Sequence[bytes]) -> NDArray[np.void] | None:
    """Records of values, shape (n,) and dtype FLOW_RECORD; None unless all surely are such.

    These are values that ``flowstream.records.decode`` accepts; it accepts others,
    too. At least one value is needed.
    """
    size = FLOW_RECORD.itemsize
    if any(len(value) != size for value in values):
        return None
    joined = np.frombuffer(b"".join(values), np.uint8)
    octets = joined.reshape(len(values), size)
    records = joined.view(FLOW_RECORD)
    if (
        np.any(octets[:, _TAGS] != octets[0, _TAGS])
        or np.any(octets > _HIGHEST)
        or not np.isin(records["record_type"], _FLOW_TYPES).all()
        or np.any(records["schema_version"] != SCHEMA_VERSION)
    ):
        return None
    try:
        # Where the tags of the first are right, those of all are.
        decode(values[0])
    except DecodeError:
        return None
    return records

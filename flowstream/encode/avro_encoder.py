"""Avro's binary encoding (https://avro.apache.org/docs/1.12.0/specification), by columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.encode.community_id import LENGTH, community_ids
from flowstream.encode.rows import Rows, varint
from flowstream.records import CountersRecord, FlowRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from msgspec import Struct
    from numpy.typing import NDArray

    from flowstream.encode.prefixes import Prefixes

# Few enough that the cells stay in the CPU's cache.
_BLOCK: Final = 1_024
_ONE: Final = np.uint64(1)
_SIGN: Final = np.uint64(63)


class AvroEncoder:
    """An ``Encoder``: fields in the order of the record, integers as int or long.

    Avro has signed numbers only: one of 2**63 or more, which no counter here
    ever reaches, appears as the negative of the same 64 bits.
    """

    def __init__(self, prefixes: Prefixes, *, community_id: bool = False) -> None:
        self._prefixes = prefixes
        self._community_id = community_id

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), _BLOCK):
            values += self._block(records[start : start + _BLOCK])
        return values

    def _block(self, records: NDArray[np.void]) -> list[bytes]:
        rows = Rows(len(records))
        rows.add(self._prefixes.of(records["record_type"]))
        for field in fields(FlowRecord):
            if field.name == "community_id":
                length = LENGTH if self._community_id else 0
                rows.add(np.array([2 * length], np.uint8))
                if self._community_id:
                    rows.add(community_ids(records))
            else:
                _add(rows, field.kind, records[field.name])
        return rows.join()

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        prefix = self._prefixes.of(np.array([record.record_type], np.uint8))
        return prefix.tobytes() + datum(record)


def _add(rows: Rows, kind: Kind, column: NDArray[Any]) -> None:
    match kind:
        case Kind.TEXT:  # padded with NUL
            present = column != 0
            rows.add((np.count_nonzero(present, axis=1) * 2).astype(np.uint8)[:, None])
            rows.add(column, present)
        case Kind.ADDRESS | Kind.HOST_ID | Kind.MAC:
            rows.add(column)
        case _:
            numbers = column.astype(np.uint64)
            zigzag = numbers << _ONE
            if kind is Kind.U64:
                zigzag ^= np.uint64(0) - (numbers >> _SIGN)
            rows.add_varints(zigzag)


def datum(record: Struct) -> bytes:
    """Encode one record, or a part of one, field by field."""
    return b"".join(
        _content(field.kind, getattr(record, field.name)) for field in fields(type(record))
    )


def _content(kind: Kind, value: Any) -> bytes:
    match kind:
        case Kind.MAP:  # one block of all entries, then the empty one
            entries = [_content(Kind.TEXT, key) + datum(part) for key, part in value.items()]
            return b"".join([_long(len(entries)), *entries, b"\0" if entries else b""])
        case Kind.RECORD:
            return datum(value)
        case Kind.TEXT:
            octets: bytes = value.encode()
            return _long(len(octets)) + octets
        case Kind.ADDRESS | Kind.HOST_ID | Kind.MAC:
            return bytes(value)
        case Kind.BOOL:
            return bytes([value])
        case _:
            return _long(int(value))


def _long(value: int) -> bytes:
    # Of 64 bits, the highest being the sign.
    return varint(value << 1 if value < 1 << 63 else ((1 << 64) - value) * 2 - 1)

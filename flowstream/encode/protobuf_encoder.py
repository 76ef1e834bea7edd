"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding), by columns.

Fields stand in the order of their numbers and zeros are left out, as protobuf's
own libraries write them: the octets are the same.
"""

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
    from flowstream.records.describe import Field

# Few enough that the cells stay in the CPU's cache.
_BLOCK: Final = 1_024
_NUMBERS: Final = (Kind.U8, Kind.U16, Kind.U32, Kind.U64, Kind.BOOL, Kind.MAC)
_VARINT, _LENGTH_DELIMITED = 0, 2


class ProtobufEncoder:
    """An ``Encoder``: FlowMessage and CountersMessage, without a length before them."""

    def __init__(self, prefixes: Prefixes, *, community_id: bool = False) -> None:
        self._prefixes = prefixes
        self._community_id = community_id
        self._fields = [(field, _octets(_tag(field))) for field in _by_number(FlowRecord)]

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), _BLOCK):
            values += self._block(records[start : start + _BLOCK])
        return values

    def _block(self, records: NDArray[np.void]) -> list[bytes]:
        rows = Rows(len(records))
        rows.add(self._prefixes.of(records["record_type"]))
        for field, tag in self._fields:
            if field.name == "community_id":
                if self._community_id:
                    rows.add(np.append(tag, np.uint8(LENGTH)))
                    rows.add(community_ids(records))
            else:
                _add(rows, field.kind, tag, records[field.name])
        return rows.join()

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        prefix = self._prefixes.of(np.array([record.record_type], np.uint8))
        return prefix.tobytes() + message(record)


def _add(rows: Rows, kind: Kind, tag: NDArray[np.uint8], column: NDArray[Any]) -> None:
    match kind:
        case Kind.TEXT:  # padded with NUL
            present = column != 0
            length = np.count_nonzero(present, axis=1).astype(np.uint64)
            rows.add_varints(length, tag)
            rows.add(column, present)
        case Kind.ADDRESS | Kind.HOST_ID:
            rows.add(np.append(tag, np.uint8(column.shape[1])))
            rows.add(column)
        case Kind.MAC:  # GoFlow2: the number that the octets are in network order
            padded = np.zeros((len(column), 8), np.uint8)
            padded[:, 2:] = column
            rows.add_varints(padded.view(">u8").ravel().astype(np.uint64), tag)
        case _:
            rows.add_varints(column.astype(np.uint64), tag)


def message(record: Struct) -> bytes:
    """Encode one record, or a part of one, field by field."""
    return b"".join(
        _tag(field) + content
        for field in _by_number(type(record))
        for content in _contents(field.kind, getattr(record, field.name))
    )


def _contents(kind: Kind, value: Any) -> list[bytes]:
    """What stands behind the tag, once for each time that the field occurs."""
    match kind:
        case Kind.MAP:
            return [
                _sized(b"\x0a" + _sized(key.encode()) + b"\x12" + _sized(message(part)))
                for key, part in value.items()
            ]
        case Kind.RECORD:
            return [_sized(message(value))]
        case Kind.TEXT:
            return [_sized(value.encode())] if value else []
        case Kind.ADDRESS | Kind.HOST_ID:
            return [_sized(value)]
        case Kind.MAC:
            return _contents(Kind.U64, int.from_bytes(value))
        case _:
            return [varint(int(value))] if value else []


def _sized(content: bytes) -> bytes:
    return varint(len(content)) + content


def _by_number(record: type[Struct]) -> list[Field]:
    return sorted(fields(record), key=lambda field: field.number)


def _tag(field: Field) -> bytes:
    wire_type = _VARINT if field.kind in _NUMBERS else _LENGTH_DELIMITED
    return varint(field.number << 3 | wire_type)


def _octets(value: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(value, np.uint8)

"""Avro's binary encoding (https://avro.apache.org/docs/1.12.0/specification), by columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.encode.address_texts import AddressCells, hex_cells, mac_cells
from flowstream.encode.columns import BLOCK_RECORDS, is_constant, is_ipv4, number_column
from flowstream.encode.community_id import LENGTH, community_ids
from flowstream.encode.value_builder import ValueBuilder, varint
from flowstream.records import CountersRecord, FlowRecord
from flowstream.records.describe import Field, named_fields
from flowstream.records.fields import Kind
from flowstream.records.json_form import text

if TYPE_CHECKING:
    from msgspec import Struct
    from numpy.typing import NDArray

    from flowstream.encode.prefixes import Prefixes

_ONE: Final = np.uint64(1)


class AvroEncoder:
    """An ``Encoder``: the named fields in their order, integers as int or long."""

    def __init__(self, host: str, prefixes: Prefixes, *, community_id: bool = False) -> None:
        self._host = np.frombuffer(_content(Kind.TEXT, host), np.uint8)
        self._prefixes = prefixes
        self._community_id = community_id
        self._addresses = AddressCells()

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), BLOCK_RECORDS):
            values += self._block(records[start : start + BLOCK_RECORDS])
        return values

    def _block(self, records: NDArray[np.void]) -> list[bytes]:
        built = ValueBuilder(len(records))
        built.add(self._prefixes.of(records["record_type"]))
        for field in named_fields(FlowRecord):
            match field:
                case Field(name="host"):
                    built.add(self._host)
                case Field(name="community_id"):
                    self._add_community_ids(built, records)
                case Field(kind=Kind.ADDRESS):
                    self._add_addresses(built, records, field.name)
                case Field(kind=Kind.HOST_ID):
                    _add_texts(built, hex_cells(_shortest(records[field.name])))
                case Field(kind=Kind.MAC):
                    _add_texts(built, mac_cells(_shortest(records[field.name])))
                case Field(kind=Kind.TEXT):  # padded with NUL
                    _add_texts(built, records[field.name])
                case _:
                    numbers = number_column(records, field.name).astype(np.uint64)
                    built.add_varints(numbers << _ONE)
        return built.values()

    def _add_community_ids(self, built: ValueBuilder, records: NDArray[np.void]) -> None:
        if self._community_id:
            built.add(np.array([2 * LENGTH], np.uint8))
            built.add(community_ids(records))
        else:
            built.add(np.zeros(1, np.uint8))

    def _add_addresses(self, built: ValueBuilder, records: NDArray[np.void], name: str) -> None:
        column, ipv4 = records[name], is_ipv4(records, name)
        if is_constant(column) and is_constant(ipv4):
            column, ipv4 = column[:1], ipv4[:1]
        _add_texts(built, self._addresses(column, ipv4))

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        prefix = self._prefixes.of(np.array([record.record_type], np.uint8))
        return prefix.tobytes() + datum(record)


def _shortest(column: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One element for all where a column is constant."""
    return column[:1] if is_constant(column) else column


def _add_texts(built: ValueBuilder, cells: NDArray[np.uint8]) -> None:
    """Append texts, shape (n, width) or (1, width), without their NULs."""
    present = cells != 0
    # A text has at most 39 octets: its length, in zigzag, is one octet.
    built.add((np.count_nonzero(present, axis=1) * 2).astype(np.uint8)[:, None])
    built.add(cells, present)


def datum(record: Struct) -> bytes:
    """Encode one counters record, or a part of it, field by field."""
    return b"".join(
        _content(field.kind, getattr(record, field.name)) for field in named_fields(type(record))
    )


def _content(kind: Kind, value: Any) -> bytes:
    match kind:
        case Kind.MAP:  # one block of all entries, then the empty one
            entries = [_content(Kind.TEXT, key) + datum(part) for key, part in value.items()]
            return b"".join([_long(len(entries)), *entries, b"\0" if entries else b""])
        case Kind.PART:
            return datum(value)
        case Kind.TEXT:
            octets: bytes = value.encode()
            return _long(len(octets)) + octets
        case Kind.ADDRESS | Kind.HOST_ID:
            return _content(Kind.TEXT, text(kind, value))
        case Kind.BOOL:
            return bytes([value])
        case _:
            return _long(int(value))


def _long(value: int) -> bytes:
    return varint(value << 1)

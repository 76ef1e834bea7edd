"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding), by columns.

Fields stand in the order of their numbers and zeros are left out, as Protobuf's
own libraries write them: the octets are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.encode.columns import BLOCK_RECORDS, is_ipv4, number_column
from flowstream.encode.community_id import LENGTH, community_ids
from flowstream.encode.value_builder import ValueBuilder, varint
from flowstream.records import CountersRecord, FlowRecord
from flowstream.records.describe import Field, protobuf_fields
from flowstream.records.fields import Kind
from flowstream.records.text import V4_MAPPED

if TYPE_CHECKING:
    from msgspec import Struct
    from numpy.typing import NDArray

    from flowstream.encode.prefixes import Prefixes

_NUMBERS: Final = (Kind.U8, Kind.U16, Kind.U32, Kind.U64, Kind.BOOL, Kind.MAC)
_VARINT, _LENGTH_DELIMITED = 0, 2
_IPV4_START: Final = len(V4_MAPPED)


class ProtobufEncoder:
    """An ``Encoder``: FlowMessage and CountersMessage, length-delimited as GoFlow2 writes them.

    With ``prefixes`` a schema registry's prefix stands in place of the length.
    """

    def __init__(
        self, host: str, prefixes: Prefixes | None = None, *, community_id: bool = False
    ) -> None:
        self._host = host.encode()
        self._prefixes = prefixes
        self._community_id = community_id
        self._fields = [(field, _octets(_tag(field))) for field in protobuf_fields(FlowRecord)]

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), BLOCK_RECORDS):
            values += self._block(records[start : start + BLOCK_RECORDS])
        return values

    def _block(self, records: NDArray[np.void]) -> list[bytes]:
        built = ValueBuilder(len(records))
        if self._prefixes is not None:
            built.add(self._prefixes.of(records["record_type"]))
        for field, tag in self._fields:
            match field:
                case Field(name="host"):
                    if self._host:
                        built.add(np.append(tag, _octets(_sized(self._host))))
                case Field(name="community_id"):
                    if self._community_id:
                        built.add(np.append(tag, np.uint8(LENGTH)))
                        built.add(community_ids(records))
                case Field(kind=Kind.ADDRESS):
                    built.add(tag)
                    _add_addresses(built, records[field.name], is_ipv4(records, field.name))
                case _:
                    _add(built, field.kind, tag, number_column(records, field.name))
        return built.values() if self._prefixes is not None else built.sized_values()

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        if self._prefixes is None:
            return _sized(message(record))
        prefix = self._prefixes.of(np.array([record.record_type], np.uint8))
        return prefix.tobytes() + message(record)


def _add(built: ValueBuilder, kind: Kind, tag: NDArray[np.uint8], column: NDArray[Any]) -> None:
    match kind:
        case Kind.TEXT:  # padded with NUL
            present = column != 0
            length = np.count_nonzero(present, axis=1).astype(np.uint64)
            built.add_varints(length, tag)
            built.add(column, present)
        case Kind.HOST_ID:
            built.add(np.append(tag, np.uint8(column.shape[1])))
            built.add(column)
        case Kind.MAC:  # GoFlow2: the number that the octets are in network order
            padded = np.zeros((len(column), 8), np.uint8)
            padded[:, 2:] = column
            built.add_varints(padded.view(">u8").ravel().astype(np.uint64), tag)
        case _:
            built.add_varints(column.astype(np.uint64), tag)


def _add_addresses(
    built: ValueBuilder, column: NDArray[np.uint8], ipv4: NDArray[np.bool_]
) -> None:
    """Append lengths and addresses: 4 octets for IPv4, 16 for IPv6."""
    built.add(np.where(ipv4, np.uint8(4), np.uint8(16))[:, None])
    if not ipv4.all():
        built.add(column[:, :_IPV4_START], ~ipv4[:, None])
    built.add(column[:, _IPV4_START:])


def message(record: Struct) -> bytes:
    """Encode one counters record, or a part of it, field by field."""
    return b"".join(
        _tag(field) + content
        for field in protobuf_fields(type(record))
        for content in _contents(field.kind, getattr(record, field.name))
    )


def _contents(kind: Kind, value: Any) -> list[bytes]:
    """Octets behind the tag, once for each time that the field occurs."""
    match kind:
        case Kind.MAP:
            return [
                _sized(b"\x0a" + _sized(key.encode()) + b"\x12" + _sized(message(part)))
                for key, part in value.items()
            ]
        case Kind.PART:
            return [_sized(message(value))]
        case Kind.TEXT:
            return [_sized(value.encode())] if value else []
        case Kind.ADDRESS:
            return [_sized(value.removeprefix(V4_MAPPED))]
        case Kind.HOST_ID:
            return [_sized(value)]
        case _:
            return [varint(int(value))] if value else []


def _sized(content: bytes) -> bytes:
    return varint(len(content)) + content


def _tag(field: Field) -> bytes:
    wire_type = _VARINT if field.kind in _NUMBERS else _LENGTH_DELIMITED
    return varint(field.number << 3 | wire_type)


def _octets(value: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(value, np.uint8)

"""JSON: one object per record, through the Structs that also give the JSON Schema."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from flowstream.encode.address_texts import AddressTexts, TextCache
from flowstream.encode.columns import BLOCK_RECORDS, is_constant, is_ipv4, name_text, number_column
from flowstream.encode.community_id import community_ids
from flowstream.encode.profiles import COMPUTED, PROFILES
from flowstream.encode.value_builder import bytes_of
from flowstream.records import FlowRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.json_form import counters_form
from flowstream.records.text import mac_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from msgspec import Struct
    from numpy.typing import NDArray

    from flowstream.encode.profiles import Tree
    from flowstream.records import CountersRecord

_ADDRESSES: Final = [field.name for field in fields(FlowRecord) if field.kind is Kind.ADDRESS]
_ENCODER: Final = msgspec.json.Encoder()


class JsonEncoder:
    """An ``Encoder``: whole columns become Python lists, then Structs, then text.

    ``names`` is a key of ``PROFILES``; the counters topic has one set of names.
    Texts are cached, at most 131,072 of each kind: 30 MB when all are different
    IPv6 addresses.
    """

    def __init__(self, host: str, *, names: str = "goflow2", community_id: bool = False) -> None:
        self._host = host
        self._community_id = community_id
        self._root = _part("Flow", PROFILES[names])
        self._addresses = AddressTexts()
        macs = _remembered(mac_text)
        self._texts: dict[str, Callable[[NDArray[np.uint8]], Iterable[str]]] = {
            "host_id": _remembered(bytes.hex),
            "if_name": _remembered(name_text),
            "src_mac": macs,
            "dst_mac": macs,
        }

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), BLOCK_RECORDS):
            block = records[start : start + BLOCK_RECORDS]
            values += map(_ENCODER.encode, self._objects(block, self._root))
        return values

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        return _ENCODER.encode(counters_form(record))

    def _objects(self, records: NDArray[np.void], part: _Part) -> Iterable[Struct]:
        columns = [
            self._column(records, child)
            if isinstance(child, str)
            else self._objects(records, child)
            for child in part.children
        ]
        return map(part.struct, *columns)

    def _column(self, records: NDArray[np.void], name: str) -> Iterable[Any]:
        if name == "host":
            return repeat(self._host, len(records))
        if name == "community_id":
            if not self._community_id:
                return repeat("", len(records))
            return map(bytes.decode, bytes_of(community_ids(records)))
        if name in _ADDRESSES:
            return _once_if_constant(self._addresses, records[name], is_ipv4(records, name))
        if name in COMPUTED:
            sources = [number_column(records, source) for source in COMPUTED[name].sources]
            return _once_if_constant(COMPUTED[name].values, *sources)
        return _once_if_constant(self._texts.get(name, _numbers), number_column(records, name))


def _once_if_constant(
    values: Callable[..., Iterable[Any]], *columns: NDArray[Any]
) -> Iterable[Any]:
    """Values made of columns; of the first elements only where all columns are constant."""
    if all(map(is_constant, columns)):
        (value,) = values(*(column[:1] for column in columns))
        return repeat(value, len(columns[0]))
    return values(*columns)


def _numbers(column: NDArray[Any]) -> list[int]:
    # tolist() takes twice the time from big-endian numbers.
    numbers: list[int] = column.astype(column.dtype.newbyteorder("=")).tolist()
    return numbers


class _Part(NamedTuple):
    """An object of a profile: its Struct and, for each member, a column or a further part."""

    struct: type[Struct]
    children: list[str | _Part]


def _part(name: str, tree: Tree) -> _Part:
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    renamed = {}
    for index, (member, leaf) in enumerate(tree.items()):
        # Members such as "@timestamp" are no identifiers.
        field = f"member_{index}"
        renamed[field] = member
        # Absent unless requested: a member with a default must be the last one.
        members.append((field, Any, "") if leaf == "community_id" else (field, Any))
    struct = msgspec.defstruct(name, members, rename=renamed, omit_defaults=True, gc=False)
    children = [leaf if isinstance(leaf, str) else _part(name, leaf) for leaf in tree.values()]
    return _Part(struct, children)


def _remembered(text: Callable[[bytes], str]) -> Callable[[NDArray[np.uint8]], Iterable[str]]:
    """Text of each element of a column, cached: few elements differ."""
    texts = TextCache(text)
    return lambda column: map(texts.__getitem__, bytes_of(column))

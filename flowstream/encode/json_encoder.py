"""JSON: one object per record, through the Structs that also give the JSON Schema."""

from __future__ import annotations

from itertools import repeat
from operator import add
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from flowstream.encode.community_id import community_ids
from flowstream.encode.profiles import COMPUTED, PROFILES
from flowstream.encode.value_builder import rows_bytes
from flowstream.records.json_form import counters_form
from flowstream.records.text import V4_MAPPED, address_text, mac_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from msgspec import Struct
    from numpy.typing import NDArray

    from flowstream.encode.profiles import Tree
    from flowstream.records import CountersRecord

# Records of this many are small enough to stay in the CPU's cache while their
# columns are gathered one after the other.
_BLOCK: Final = 1_024
_CACHED_TEXTS: Final = 131_072
_V4_MAPPED: Final = np.frombuffer(V4_MAPPED, np.uint32)
_ENCODER: Final = msgspec.json.Encoder()


class _Texts(dict[Any, str]):
    """Texts already made. Bounded: when full it starts anew, which costs no bookkeeping."""

    def __init__(self, text: Callable[[Any], str]) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, value: Any) -> str:
        if len(self) >= _CACHED_TEXTS:
            self.clear()
        text = self[value] = self._text(value)
        return text


class _AddressTexts:
    """Text of address columns, at a cost that hardly depends on how many differ.

    An IPv4 address is put together from the texts of its halves, of which there
    are 65,536; of IPv6 addresses the last ones are remembered.
    """

    def __init__(self) -> None:
        self._upper = _Texts(lambda half: f"{half >> 8}.{half & 0xFF}.")
        self._lower = _Texts(lambda half: f"{half >> 8}.{half & 0xFF}")
        self._whole = _Texts(address_text)

    def __call__(self, column: NDArray[np.uint8]) -> list[str]:
        mapped = (column[:, :12].view(np.uint32) == _V4_MAPPED).all(axis=1)
        if mapped.all():
            return self._v4(column)
        if not mapped.any():
            return self._v6(column)
        texts = np.empty(len(column), object)
        texts[mapped] = self._v4(column[mapped])
        texts[~mapped] = self._v6(column[~mapped])
        merged: list[str] = texts.tolist()
        return merged

    def _v4(self, column: NDArray[np.uint8]) -> list[str]:
        halves = np.ascontiguousarray(column[:, 12:]).view(">u2").astype(np.uint16)
        upper = map(self._upper.__getitem__, halves[:, 0].tolist())
        lower = map(self._lower.__getitem__, halves[:, 1].tolist())
        return list(map(add, upper, lower))

    def _v6(self, column: NDArray[np.uint8]) -> list[str]:
        return list(map(self._whole.__getitem__, rows_bytes(column)))


class JsonEncoder:
    """An ``Encoder``: whole columns become Python lists, then Structs, then text.

    ``names`` is a key of ``PROFILES``; the counters topic has one set of names.
    It remembers texts, of each kind at most 131,072: 30 MB when all are IPv6
    addresses that differ.
    """

    def __init__(self, host: str, *, names: str = "goflow2", community_id: bool = False) -> None:
        self._host = host
        self._community_id = community_id
        self._root = _part("Flow", PROFILES[names])
        addresses = _AddressTexts()
        macs = _remembered(mac_text)
        self._texts: dict[str, Callable[[NDArray[np.uint8]], Iterable[str]]] = {
            "host_id": _remembered(bytes.hex),
            "src_addr": addresses,
            "dst_addr": addresses,
            "in_if_name": _remembered(_name_text),
            "src_mac": macs,
            "dst_mac": macs,
        }

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        values: list[bytes] = []
        for start in range(0, len(records), _BLOCK):
            block = records[start : start + _BLOCK]
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
            return map(bytes.decode, rows_bytes(community_ids(records)))
        column = records[COMPUTED[name].source if name in COMPUTED else name]
        # Half of the columns hold one value all over a block: finding that out
        # costs a tenth of making a list.
        if (column == column[0]).all():
            (value,) = self._values(column[:1], name)
            return repeat(value, len(records))
        return self._values(column, name)

    def _values(self, column: NDArray[Any], name: str) -> Iterable[Any]:
        if name in COMPUTED:
            return COMPUTED[name].values(column)
        if name in self._texts:
            return self._texts[name](column)
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
        # Absent unless it was asked for; it must stand last for that.
        members.append((field, Any, "") if leaf == "community_id" else (field, Any))
    struct = msgspec.defstruct(name, members, rename=renamed, omit_defaults=True, gc=False)
    children = [leaf if isinstance(leaf, str) else _part(name, leaf) for leaf in tree.values()]
    return _Part(struct, children)


def _remembered(text: Callable[[bytes], str]) -> Callable[[NDArray[np.uint8]], Iterable[str]]:
    """Text of each row of a column, of which few differ."""
    texts = _Texts(text)
    return lambda column: map(texts.__getitem__, rows_bytes(column))


def _name_text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")

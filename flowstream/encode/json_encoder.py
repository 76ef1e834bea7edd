"""JSON: one object per record, through the Structs that also give the JSON Schema."""

from __future__ import annotations

from itertools import repeat
from operator import add
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from flowstream.records.json_form import FlowJson, counters_form
from flowstream.records.text import V4_MAPPED, address_text, mac_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

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
        return list(map(self._whole.__getitem__, _bytes_list(column)))


class JsonEncoder:
    """An ``Encoder``: whole columns become Python lists, then Structs, then text.

    It remembers texts, of each kind at most 131,072: 30 MB when all are IPv6
    addresses that differ.
    """

    def __init__(self, host: str) -> None:
        self._host = host
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
            columns = [self._column(block, name) for name in FlowJson.__struct_fields__]
            values += map(_ENCODER.encode, map(FlowJson, *columns))
        return values

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``."""
        return _ENCODER.encode(counters_form(record))

    def _column(self, records: NDArray[np.void], name: str) -> Iterable[Any]:
        if name == "host":
            return repeat(self._host, len(records))
        column = records[name]
        # Half of the columns hold one value all over a block: finding that out
        # costs a tenth of making a list.
        if (column == column[0]).all():
            (value,) = self._values(column[:1], name)
            return repeat(value, len(records))
        return self._values(column, name)

    def _values(self, column: NDArray[Any], name: str) -> Iterable[Any]:
        if name in self._texts:
            return self._texts[name](column)
        # tolist() takes twice the time from big-endian numbers.
        numbers: list[int] = column.astype(column.dtype.newbyteorder("=")).tolist()
        return numbers


def _remembered(text: Callable[[bytes], str]) -> Callable[[NDArray[np.uint8]], Iterable[str]]:
    """Text of each row of a column, of which few differ."""
    texts = _Texts(text)
    return lambda column: map(texts.__getitem__, _bytes_list(column))


def _bytes_list(column: NDArray[np.uint8]) -> list[bytes]:
    """Rows of a column of shape (n, width), each as bytes."""
    width = column.shape[1]
    rows: list[bytes] = np.ascontiguousarray(column).view(f"V{width}").ravel().tolist()
    return rows


def _name_text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")

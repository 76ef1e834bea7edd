"""Text of address columns, as Python's text and as octets for binary values."""

from __future__ import annotations

from operator import add
from socket import AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.encode.value_builder import bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CACHED_TEXTS: Final = 131_072
_IPV6_WIDTH: Final = 39
_IPV4_WIDTH: Final = 16


class TextCache(dict[Any, Any]):
    """A cache of texts. When full it starts anew, which costs no bookkeeping."""

    def __init__(self, text: Callable[[Any], Any]) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, value: Any) -> Any:
        if len(self) >= CACHED_TEXTS:
            self.clear()
        text = self[value] = self._text(value)
        return text


class AddressTexts:
    """Text of address columns, at a cost that hardly depends on the number of different ones.

    The text of an IPv4 address is joined from cached texts of its two halves, at most
    65,536 of each; texts of IPv6 addresses are cached whole.
    """

    def __init__(self) -> None:
        self._upper = TextCache(lambda half: f"{half >> 8}.{half & 0xFF}.")
        self._lower = TextCache(lambda half: f"{half >> 8}.{half & 0xFF}")
        self._whole = TextCache(lambda address: inet_ntop(AF_INET6, address))

    def __call__(self, column: NDArray[np.uint8], is_ipv4: NDArray[np.bool_]) -> list[str]:
        """Texts of addresses of shape (n, 16); ``is_ipv4`` has shape (n,)."""
        if is_ipv4.all():
            return self._ipv4(column)
        if not is_ipv4.any():
            return self._ipv6(column)
        texts = np.empty(len(column), object)
        texts[is_ipv4] = self._ipv4(column[is_ipv4])
        texts[~is_ipv4] = self._ipv6(column[~is_ipv4])
        merged: list[str] = texts.tolist()
        return merged

    def _ipv4(self, column: NDArray[np.uint8]) -> list[str]:
        halves = np.ascontiguousarray(column[:, 12:]).view(">u2").astype(np.uint16)
        upper = map(self._upper.__getitem__, halves[:, 0].tolist())
        lower = map(self._lower.__getitem__, halves[:, 1].tolist())
        return list(map(add, upper, lower))

    def _ipv6(self, column: NDArray[np.uint8]) -> list[str]:
        return list(map(self._whole.__getitem__, bytes_of(column)))


class AddressCells:
    """Text of address columns as octets of fixed width, 0 where there is none."""

    def __init__(self) -> None:
        self._whole = TextCache(
            lambda address: inet_ntop(AF_INET6, address).encode().ljust(_IPV6_WIDTH, b"\0")
        )

    def __call__(self, column: NDArray[np.uint8], is_ipv4: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Texts of addresses of shape (n, 16), shape (n, width); ``is_ipv4`` has shape (n,)."""
        if is_ipv4.all():
            return self._ipv4(column)
        if not is_ipv4.any():
            return self._ipv6(column)
        cells = np.zeros((len(column), _IPV6_WIDTH), np.uint8)
        cells[is_ipv4, :_IPV4_WIDTH] = self._ipv4(column[is_ipv4])
        cells[~is_ipv4] = self._ipv6(column[~is_ipv4])
        return cells

    def _ipv4(self, column: NDArray[np.uint8]) -> NDArray[np.uint8]:
        words = np.empty((len(column), 4), np.uint32)
        words[:, :3] = _DECIMALS_DOT[column[:, 12:15]]
        words[:, 3] = _DECIMALS[column[:, 15]]
        return words.view(np.uint8)

    def _ipv6(self, column: NDArray[np.uint8]) -> NDArray[np.uint8]:
        texts = b"".join(map(self._whole.__getitem__, bytes_of(column)))
        return np.frombuffer(texts, np.uint8).reshape(-1, _IPV6_WIDTH)


def hex_cells(column: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hex digits of octets of shape (n, k), shape (n, 2k)."""
    return np.take(_HEX, column, axis=0).reshape(len(column), -1)


def mac_cells(column: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Text of MAC addresses of shape (n, 6), shape (n, 17)."""
    return np.take(_HEX_COLON, column, axis=0).reshape(len(column), -1)[:, :-1]


def _table(form: bytes, width: int) -> NDArray[np.uint8]:
    """Text of every octet, NUL behind it where it is shorter than ``width``."""
    texts = [(form % octet).ljust(width, b"\0") for octet in range(256)]
    return np.frombuffer(b"".join(texts), np.uint8).reshape(256, width)


_HEX: Final = _table(b"%02x", 2)
_HEX_COLON: Final = _table(b"%02x:", 3)
# Four octets taken as one number, which is faster.
_DECIMALS_DOT: Final = _table(b"%d.", 4).view(np.uint32)[:, 0]
_DECIMALS: Final = _table(b"%d", 4).view(np.uint32)[:, 0]

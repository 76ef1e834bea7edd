"""Reads the books of an earlier run without privileges: its agent had none and wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.accounting import books
from flowstream.errors import FlowstreamError
from flowstream.host import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.accounting.books import Decoded, Ended
    from flowstream.host.privileges import User


def read(items: Iterable[tuple[int, bytes]], user: User) -> Ended:
    """Read all entries of the books, in a child process that has become ``user``.

    ValueError for damage, for another version, and when there can be no such process.
    """
    octets = [*items]
    try:
        return books.checked(unprivileged.call(user, lambda: _decode(octets), books.Decoded))
    except FlowstreamError as err:
        raise ValueError(str(err)) from err


def _decode(octets: list[tuple[int, bytes]]) -> Decoded:
    try:
        return books.decode(octets)
    except ValueError as err:
        # The kind of error that is handed over.
        raise FlowstreamError(str(err)) from err

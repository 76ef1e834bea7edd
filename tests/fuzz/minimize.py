"""Shortens an input that is a finding, as long as it stays the same finding."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from fuzz import bounds

if TYPE_CHECKING:
    from collections.abc import Callable


def minimize(target: Callable[[bytes], None], data: bytes) -> bytes:
    """Return the shortest part of ``data`` found that fails at the same place."""
    place = _failure(target, data)
    if place is None:
        return data
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if _failure(target, shorter) == place:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _failure(target: Callable[[bytes], None], data: bytes) -> tuple[str, str, int | None] | None:
    """Return kind and place of the exception, None without one."""
    try:
        bounds.run(target, data)
    except Exception as err:  # noqa: BLE001 - any is a finding
        last = traceback.extract_tb(err.__traceback__)[-1]
        return type(err).__name__, last.filename, last.lineno
    return None

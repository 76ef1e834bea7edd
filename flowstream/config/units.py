"""Sizes and times as text with a unit, such as 1GiB and 7d."""

from __future__ import annotations

import string
from typing import Final

SIZE_PATTERN: Final = r"\A([1-9][0-9]{0,5}(MB|GB|TB|MiB|GiB|TiB)|unlimited)\Z"
SIZE_FORMS: Final = "a size such as 500MB, 1GiB or 2TiB, or unlimited"
AGE_PATTERN: Final = r"\A([1-9][0-9]{0,5}(min|h|d)|unlimited)\Z"
AGE_FORMS: Final = "a time such as 90min, 12h or 7d, or unlimited"

_UNITS: Final = {
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "min": 60,
    "h": 3_600,
    "d": 86_400,
}


def octets(text: str) -> int | None:
    """Return the octets of a text of ``SIZE_PATTERN``; None for unlimited."""
    return _amount(text)


def seconds(text: str) -> int | None:
    """Return the seconds of a text of ``AGE_PATTERN``; None for unlimited."""
    return _amount(text)


def _amount(text: str) -> int | None:
    if text == "unlimited":
        return None
    number = text.rstrip(string.ascii_letters)
    return int(number) * _UNITS[text[len(number) :]]

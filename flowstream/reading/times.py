"""Times as people write them: RFC 3339, Unix seconds, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from flowstream.errors import UsageError

FORMS: Final = "RFC 3339, Unix seconds, or how long ago: 90s, 10m, 2h, 7d"
_AGO: Final = re.compile(r"([0-9]{1,9})(s|m|min|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_UNIX: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")


def unix_ms(text: str, now_ms: int) -> int:
    """Return the Unix milliseconds of a time; UsageError for another text.

    A time without an offset from UTC is local.
    """
    if found := _AGO.fullmatch(text):
        return now_ms - int(found[1]) * _SECONDS[found[2]] * 1000
    if _UNIX.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1000 + int(fraction.ljust(3, "0")[:3])
    try:
        time = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as err:
        raise UsageError(f"{text!r} is not a time; use {FORMS}") from err
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000

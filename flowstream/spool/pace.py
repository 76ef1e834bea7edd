"""How fast the spool is drained: octets on their way at once, and records per second.

Pure: times are seconds of the caller's clock.
"""

from __future__ import annotations

from typing import Final

LARGEST: Final = 4 << 20
_SMALLEST: Final = 64 << 10
# Live records wait behind those on their way: this many seconds, about.
_LATE: Final = 0.5
_PROMPT: Final = 0.25
_GROWTH: Final = 8


class Window:
    """Octets that may be on their way, so that live records do not wait long behind them.

    It grows by an eighth of what is answered within a quarter of a second, and is halved,
    at most every half second, while answers take longer than that or do not come.
    """

    def __init__(self) -> None:
        self.limit = _SMALLEST
        """Octets that may be on their way."""
        self.used = 0
        """Octets that are."""
        self._halved = 0.0

    def has_room(self) -> bool:
        """Say whether another batch may go; one may be larger than the room."""
        return self.used < self.limit

    def take(self, octets: int) -> None:
        """Note a batch that goes."""
        self.used += octets

    def give(self, octets: int, began: float, now: float, *, answered: bool) -> None:
        """Note the end of a batch that went at ``began``."""
        self.used -= octets
        if answered and now - began < _PROMPT:
            self.limit = min(self.limit + octets // _GROWTH, LARGEST)
        elif (not answered or now - began > _LATE) and now - self._halved > _LATE:
            self.limit = max(self.limit // 2, _SMALLEST)
            self._halved = now


class Rate:
    """At most ``limit`` records per second; None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._due = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until another batch may go."""
        return max(self._due - now, 0.0)

    def take(self, records: int, now: float) -> None:
        """Note a batch that goes; time without any is not made up for."""
        if self._limit is not None:
            self._due = max(self._due, now) + records / self._limit

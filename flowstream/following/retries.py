"""When to try again to attach to a link that refused, in one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

    from flowstream.following.points import PointKey
    from flowstream.host.links import LinkFacts

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Failure:
    link: LinkFacts
    reason: str
    pause_s: float
    due: float


class Retries:
    """Failed attachments; times are those of one monotonic clock, seconds."""

    def __init__(self) -> None:
        self._failures: dict[PointKey, _Failure] = {}

    def due(self, key: PointKey, link: LinkFacts) -> float:
        """Return the time of the next try: 0 for the first one, and when the link has changed."""
        failure = self._failures.get(key)
        return failure.due if failure and link == failure.link else 0.0

    def has(self, key: PointKey) -> bool:
        """Whether it has failed."""
        return key in self._failures

    def failed(self, key: PointKey, link: LinkFacts, reason: str, now: float) -> bool:
        """Note a failure; return whether its reason is another than the last one's.

        Each pause is twice the one before, as long as the link does not change.
        """
        last = self._failures.get(key)
        pause_s = FIRST_PAUSE_S
        if last and last.link == link:
            pause_s = min(2 * last.pause_s, LONGEST_PAUSE_S)
        self._failures[key] = _Failure(link, reason, pause_s, now + pause_s)
        return last is None or last.reason != reason

    def keep(self, present: Container[PointKey]) -> None:
        """Forget all but these."""
        self._failures = {key: each for key, each in self._failures.items() if key in present}

    def forget(self, key: PointKey) -> None:
        """Forget one: it is attached."""
        self._failures.pop(key, None)

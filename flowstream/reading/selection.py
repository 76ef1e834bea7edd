"""Which messages of a topic are wanted: by time, number and condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.messages import Message
    from flowstream.reading.where import Condition


@dataclass(frozen=True, slots=True)
class Selection:
    """Messages from ``since_ms`` on and before ``until_ms``, at most ``limit`` that match.

    Times are those of the messages, in Unix milliseconds. None selects all.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    limit: int | None = None
    where: Condition | None = None

    def in_time(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Messages of the time that is wanted."""
        since, until = self.since_ms, self.until_ms
        if since is not None:
            messages = [each for each in messages if each.timestamp_ms >= since]
        if until is not None:
            messages = [each for each in messages if each.timestamp_ms < until]
        return messages

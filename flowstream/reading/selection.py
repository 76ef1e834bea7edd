"""Selects messages of a topic by time, number and condition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from flowstream.errors import DecodeError, MissingExtraError
from flowstream.records import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.messages import Message
    from flowstream.reading.where import Condition
    from flowstream.records import CountersRecord, FlowRecord


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
        """Return the messages of the selected time."""
        since, until = self.since_ms, self.until_ms
        if since is not None:
            messages = [each for each in messages if each.timestamp_ms >= since]
        if until is not None:
            messages = [each for each in messages if each.timestamp_ms < until]
        return messages

    def selector(self) -> Selector:
        """Return a selector, which counts towards the limit."""
        return Selector(self)


class Selector:
    """Selects messages, list by list; ``is_complete`` once the limit is reached."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._left = selection.limit

    @property
    def is_complete(self) -> bool:
        """Whether the limit is reached."""
        return self._left == 0

    def __call__(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the selected messages; DecodeError if a condition meets another value."""
        found = self._selection.in_time(messages)
        where = self._selection.where
        matching: Iterator[Message] = iter(found)
        if where is not None:
            matching = (each for each in found if where.matches(decoded(each)))
        found = list(islice(matching, self._left))
        if self._left is not None:
            self._left -= len(found)
        return found


def decoded(message: Message) -> FlowRecord | CountersRecord:
    """Decode a message's record; DecodeError and MissingExtraError name its place."""
    try:
        return decode(message.value)
    except MissingExtraError as err:
        raise err.at(message.place) from err.__cause__
    except DecodeError as err:
        raise DecodeError(f"{message.place}: {err}") from err.__cause__

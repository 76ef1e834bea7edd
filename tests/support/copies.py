"""Messages as they are copied: everything but their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowstream.messages import Headers, Message, MessageBatch

if TYPE_CHECKING:
    from collections.abc import Sequence


class Content(NamedTuple):
    """All that a message has, without topic, partition and offset."""

    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def content(message: Message) -> Content:
    """The content of a message that was read."""
    value = None if message.is_null else message.value
    return Content(message.timestamp_ms, message.key, value, message.headers)


def batch_of(topic: str, partition: int, contents: Sequence[Content]) -> MessageBatch:
    """A batch of these contents, as a copy of a topic has them."""
    return MessageBatch(
        topic=topic,
        partition=partition,
        timestamps_ms=[each.timestamp_ms for each in contents],
        keys=[each.key for each in contents],
        values=[each.value for each in contents],
        headers=[each.headers for each in contents],
    )

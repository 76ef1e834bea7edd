"""How long a cluster's topics keep messages, by the messages' own times."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAMES: Final = ("cleanup.policy", "message.timestamp.type", "retention.ms")


async def overdue(
    addresses: Sequence[str], oldest_ms: Mapping[str, int], within: float
) -> list[str]:
    """Return a line for each topic that does not keep messages as old as it was sent.

    ``oldest_ms`` is the least timestamp by topic, Unix ms; below 0 it is none. What
    the brokers at ``addresses`` (HOST:PORT) do not tell in ``within`` seconds is left
    out: the messages are there all the same.
    """
    try:
        async with asyncio.timeout(within):
            settings = await _settings(addresses, list(oldest_ms), int(within * 1000))
    except (KafkaError, OSError, TimeoutError):
        return []
    now_ms = time.time_ns() // 1_000_000
    lines = []
    for topic, found in settings.items():
        oldest, keep_ms = oldest_ms[topic], _keep_ms(found)
        if 0 <= oldest < now_ms - keep_ms and keep_ms >= 0:
            day = datetime.fromtimestamp(oldest / 1000, UTC).date()
            lines.append(
                f"topic {topic}: the oldest message sent is of {day}, and the topic's "
                f"retention.ms={keep_ms} makes the broker delete such messages soon; "
                "set retention.ms=-1 to keep them"
            )
    return lines


def _keep_ms(settings: Mapping[str, str]) -> int:
    """How old messages may become; -1 when their times do not matter."""
    by_time = "delete" in settings["cleanup.policy"]
    own_times = settings["message.timestamp.type"] == "CreateTime"
    return int(settings["retention.ms"]) if by_time and own_times else -1


async def _settings(
    addresses: Sequence[str], topics: Sequence[str], timeout_ms: int
) -> dict[str, dict[str, str]]:
    """Values of ``_NAMES`` by topic, of those that the cluster tells."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(addresses), client_id="flowstream", request_timeout_ms=timeout_ms
    )
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(_NAMES)) for topic in topics
    ]
    try:
        await admin.start()
        answers = await admin.describe_configs(asked)
    finally:
        await admin.close()
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for error, _, _, topic, entries in answer.resources:
            if not error:
                found[topic] = {entry[0]: entry[1] for entry in entries}
    return found

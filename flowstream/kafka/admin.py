"""Topics of a Kafka cluster: which exist, with how many partitions, and how long they keep."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from flowstream.errors import SinkError
from flowstream.kafka.client import admin_client
from flowstream.kafka.diagnosis import why_unreachable
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from flowstream.kafka.settings import ClientSettings

# As a replication factor: the broker's default.
_DEFAULT_REPLICATION: Final = -1
# Every message counts, even when a later one has the same key.
_WITHOUT_SUCCESSOR: Final = (f".{Stream.FLOWS}", f".{Stream.NEW_FLOWS}")
COMPACTED: Final = "cleanup.policy=compact deletes records of all flows but the latest"
COMPACTED_REMEDY: Final = "set cleanup.policy=delete"
_RETENTION_SETTINGS: Final = ("cleanup.policy", "message.timestamp.type", "retention.ms")


async def existing_partitions(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, int]:
    """Return the number of partitions of each topic, 0 where it does not exist."""
    # All topics are listed first: asking for a missing one by name makes a broker
    # with automatic creation create it.
    present = sorted(set(topics) & set(await admin.list_topics()))
    described = await admin.describe_topics(present) if present else []
    counts = {entry["topic"]: len(entry["partitions"]) for entry in described}
    return {topic: counts.get(topic, 0) for topic in topics}


async def partition_counts(
    settings: ClientSettings, topics: Sequence[str], within: float
) -> dict[str, int]:
    """Return the number of partitions of each topic, 0 where it does not exist.

    Creates nothing. Raises ``SinkError`` when no broker answers within ``within``
    seconds; its text describes the result of plain connections.
    """
    try:
        async with (
            asyncio.timeout(within),
            admin_client(replace(settings, request_timeout=within)) as admin,
        ):
            return await existing_partitions(admin, topics)
    except Exception as err:  # a listener that is not a broker causes errors of any kind
        raise SinkError(await why_unreachable(settings)) from err


async def create_missing(
    settings: ClientSettings, partitions: Mapping[str, int], topic_settings: Mapping[str, str]
) -> None:
    """Create the missing topics with these numbers of partitions.

    Raises ``SinkError`` when the cluster refuses, and lets aiokafka's errors
    through where another attempt may succeed.
    """
    async with admin_client(settings) as admin:
        present = await existing_partitions(admin, tuple(partitions))
        missing = [
            NewTopic(topic, partitions[topic], _DEFAULT_REPLICATION, {}, dict(topic_settings))
            for topic, count in present.items()
            if not count
        ]
        if not missing:
            return
        answer = await admin.create_topics(missing)
    for topic, code, *text in answer.topic_errors:
        error = for_code(code)
        if error in (NoError, TopicAlreadyExistsError):
            continue
        if error.retriable:
            raise error
        detail = KafkaError(text[0]) if text and text[0] else error()
        raise SinkError(refusal(settings, f"topic {topic} cannot be created", detail))


def refusal(settings: ClientSettings, what: str, err: BaseException) -> str:
    """Return the text of an error, with the remedy, for a cluster that refuses."""
    text = str(err).removeprefix("KafkaError: ")
    return (
        f"{settings.url}: {what}: {text}; "
        "create the topics by hand or give this client the right to create and write them"
    )


async def overdue(
    settings: ClientSettings, oldest_ms: Mapping[str, int], within: float
) -> list[str]:
    """Return a warning for each topic that does not keep messages as old as those sent.

    ``oldest_ms`` is the least timestamp by topic, in Unix ms; a negative one is
    ignored. Topics whose settings the cluster does not report within
    ``within`` seconds are left out: this is only advice.
    """
    found = await _retention_settings(settings, tuple(oldest_ms), within)
    now_ms = time.time_ns() // 1_000_000
    warnings = []
    for topic, values in found.items():
        oldest, keep_ms = oldest_ms[topic], _keep_ms(values)
        if 0 <= oldest < now_ms - keep_ms and keep_ms >= 0:
            day = datetime.fromtimestamp(oldest / 1000, UTC).date()
            warnings.append(
                f"topic {topic}: the oldest message sent is from {day}, and the topic's "
                f"retention.ms={keep_ms} makes the broker delete such messages soon; "
                "set retention.ms=-1 to keep them"
            )
    return warnings


async def compacted(settings: ClientSettings, topics: Sequence[str], within: float) -> list[str]:
    """Return the compacted topics: the broker keeps only the latest message of each key.

    Topics of counters are left out: the latest record of a key includes all earlier
    ones. So are topics whose settings the cluster does not report.
    """
    kept = tuple(topic for topic in topics if topic.endswith(_WITHOUT_SUCCESSOR))
    found = await _retention_settings(settings, kept, within)
    return [
        topic
        for topic, values in found.items()
        if "compact" in (values.get("cleanup.policy") or "")
    ]


def _keep_ms(values: Mapping[str, str | None]) -> int:
    """Return the age at which messages are deleted; -1 when their times do not matter.

    Also -1 for a cluster that lacks one of these settings: not all are Kafka's own.
    """
    policy, timestamps, keep_ms = map(values.get, _RETENTION_SETTINGS)
    by_time = "delete" in (policy or "")
    own_times = timestamps == "CreateTime"
    is_number = re.fullmatch(r"[0-9]{1,19}", keep_ms or "")
    return int(keep_ms or "") if by_time and own_times and is_number else -1


async def _retention_settings(
    settings: ClientSettings, topics: Sequence[str], within: float
) -> dict[str, dict[str, str | None]]:
    """Return values of ``_RETENTION_SETTINGS`` by topic, of the topics that answer in time."""
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(_RETENTION_SETTINGS))
        for topic in topics
    ]
    found: dict[str, dict[str, str | None]] = {}
    # A listener that is not a broker causes errors of any kind, also in its answers.
    with contextlib.suppress(Exception):
        async with (
            asyncio.timeout(within),
            admin_client(replace(settings, request_timeout=within)) as admin,
        ):
            answers = await admin.describe_configs(asked)
        for answer in answers:
            for error, _, _, topic, entries in answer.resources:
                if not error and topic in topics:
                    found[topic] = {entry[0]: entry[1] for entry in entries}
    return found

"""Topics of a Kafka cluster: which exist, with how many partitions; creating them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiokafka.admin import NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from flowstream.errors import SinkError
from flowstream.kafka.client import admin_client
from flowstream.kafka.diagnosis import why_unreachable
from flowstream.kafka.looks import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from flowstream.kafka.settings import ClientSettings

# As a replication factor: the broker's default.
_DEFAULT_REPLICATION: Final = -1
_UNAUTHORISED: Final = (ClusterAuthorizationFailedError, TopicAuthorizationFailedError)


async def existing_partitions(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, int]:
    """Return the number of partitions of each topic, 0 where it does not exist."""
    # All topics are listed first: asking for a missing one by name makes a broker
    # with automatic creation create it.
    present = sorted(set(topics) & set(await admin.list_topics()))
    described = await admin.describe_topics(present) if present else []
    counts = {entry["topic"]: len(entry["partitions"]) for entry in described}
    return {topic: counts.get(topic, 0) for topic in topics}


async def prefixed_topics(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> list[str]:
    """Return the topics that have one of these names behind a prefix, as ``PREFIX.NAME``."""
    names = tuple(f".{topic}" for topic in topics)
    return sorted(topic for topic in await admin.list_topics() if topic.endswith(names))


async def partition_counts(
    settings: ClientSettings, topics: Sequence[str], within: float
) -> dict[str, int]:
    """Return the number of partitions of each topic, 0 where it does not exist.

    Creates nothing. Raises ``SinkError``, with the fault at each address, when no broker
    answers within ``within`` seconds.
    """
    async with _answering(settings, within) as admin:
        return await existing_partitions(admin, topics)


async def create_missing(
    settings: ClientSettings, partitions: Mapping[str, int], topic_settings: Mapping[str, str]
) -> dict[str, KafkaError]:
    """Create the missing topics with these numbers of partitions.

    Returns the topics that the cluster refuses to create, and lets aiokafka's errors
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
            return {}
        answer = await admin.create_topics(missing)
    refused: dict[str, KafkaError] = {}
    for topic, code, *text in answer.topic_errors:
        error = for_code(code)
        if error in (NoError, TopicAlreadyExistsError):
            continue
        if error.retriable:
            raise error
        refused[topic] = error(shown(text[0])) if text and text[0] else error()
    return refused


async def create_on_trial(
    settings: ClientSettings, topics: Sequence[str], within: float
) -> dict[str, str]:
    """Return why each of these missing topics could not be created, "" where it could.

    Creates nothing. Raises ``SinkError`` when the cluster does not answer.
    """
    missing = [NewTopic(topic, 1, _DEFAULT_REPLICATION, {}) for topic in topics]
    async with _answering(settings, within) as admin:
        answer = await admin.create_topics(missing, validate_only=True)
    errors = {
        topic: _detail(code, text)
        for topic, code, *text in answer.topic_errors
        # Another client was faster.
        if for_code(code) not in (NoError, TopicAlreadyExistsError)
    }
    return {topic: errors.get(topic, "") for topic in topics}


@contextlib.asynccontextmanager
async def _answering(
    settings: ClientSettings, within: float
) -> AsyncIterator[AIOKafkaAdminClient]:
    """Start an admin client; ``SinkError`` unless the block ends within so many seconds."""
    try:
        async with (
            asyncio.timeout(within),
            admin_client(replace(settings, request_timeout=within)) as admin,
        ):
            yield admin
    except Exception as err:  # a listener that is not a broker causes errors of any kind
        raise SinkError(await why_unreachable(settings)) from err


def _detail(code: int, text: Sequence[str | None]) -> str:
    """Return the broker's own text for an error, else its name."""
    return shown(text[0]).removesuffix(".") if text and text[0] else str(for_code(code).__name__)


def words(err: KafkaError) -> str:
    """Return the error's name and the broker's text."""
    return re.sub(r"^\[Error -?\d+\] ", "", str(err))


def refusal(settings: ClientSettings, what: str, err: KafkaError) -> str:
    """Return the text of an error, with the remedy, for a cluster that refuses."""
    if isinstance(err, _UNAUTHORISED):
        text, remedy = (
            f"{user_of(settings)} is not authorised",
            "allow it Describe, Create and Write",
        )
        if isinstance(err, ClusterAuthorizationFailedError):
            remedy = "allow it Write on the topics, or IdempotentWrite on the cluster"
    else:
        text = words(err)
        remedy = "create the topics by hand or give this client the right to create and write them"
    return f"{settings.url}: {what}: {text}; {remedy}"


def user_of(settings: ClientSettings) -> str:
    """Name the client as the cluster's rights do, where its name is known here."""
    name = settings.sasl.username if settings.sasl else ""
    return f"user {name}" if name else "this client"

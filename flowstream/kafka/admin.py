"""A look at a Kafka cluster that creates nothing: whether it answers, which topics it has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.admin import AIOKafkaAdminClient

from flowstream.errors import SinkError
from flowstream.kafka.producer import CLIENT_ID, quieten_aiokafka, why_unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence


async def partition_counts(
    addresses: Sequence[str], topics: Sequence[str], within: float
) -> dict[str, int]:
    """Partitions of each of these topics, 0 where it does not exist.

    Raises SinkError when no broker at ``addresses`` (HOST:PORT) answers in
    ``within`` seconds, saying what happens on a plain connection.
    """
    quieten_aiokafka()
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(addresses),
        client_id=CLIENT_ID,
        request_timeout_ms=int(within * 1000),
    )
    try:
        async with asyncio.timeout(within):
            try:
                await admin.start()
                # Only what exists may be asked for by name: a broker with automatic
                # creation would make the rest.
                present = sorted(set(topics) & set(await admin.list_topics()))
                described = await admin.describe_topics(present) if present else []
            finally:
                await admin.close()
    except Exception as err:  # whatever a listener makes of aiokafka
        raise SinkError(await why_unreachable(addresses)) from err
    counts = {entry["topic"]: len(entry["partitions"]) for entry in described}
    return {topic: counts.get(topic, 0) for topic in topics}

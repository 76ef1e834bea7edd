"""One idempotent Kafka producer: its making, its topics, and its end under a deadline.

aiokafka's own ``stop`` and ``flush`` wait for the broker without bound (its
issue 1101), so ``abandon`` reaches into the producer, and only here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    for_code,
)

from flowstream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.sink.ledger import BatchBuilder

CLIENT_ID = "flowstream"
# How long a request may take to notice that its connection is gone.
_ABANDON_TIMEOUT = 1.0
# The replication factor that means: the broker's default.
_DEFAULT_REPLICATION = -1


class Producer:
    """A started producer and the partition counts of its topics."""

    def __init__(self, producer: AIOKafkaProducer, partitions: dict[str, int]) -> None:
        self._producer = producer
        self.partitions = partitions

    @classmethod
    async def connect(
        cls,
        addresses: Sequence[str],
        topics: Sequence[str],
        *,
        partitions: int | Mapping[str, int],
        topic_settings: Mapping[str, str],
        batch_bytes: int,
        request_timeout: float,
    ) -> Self:
        """Create the topics that are missing and start a producer for all of them.

        May wait forever: the caller sets the deadline. Raises ``SinkError`` when
        the cluster refuses, and lets aiokafka's errors through where another
        attempt may succeed.
        """
        timeout_ms = int(request_timeout * 1000)
        counts = dict.fromkeys(topics, partitions) if isinstance(partitions, int) else partitions
        wanted = [
            NewTopic(topic, counts[topic], _DEFAULT_REPLICATION, {}, dict(topic_settings))
            for topic in topics
        ]
        await _create_missing(addresses, wanted, timeout_ms)
        producer = AIOKafkaProducer(
            bootstrap_servers=list(addresses),
            client_id=CLIENT_ID,
            acks="all",
            enable_idempotence=True,
            max_batch_size=batch_bytes,
            request_timeout_ms=timeout_ms,
        )
        # Else a batch without a leader for that long fails, and its successor may be a
        # duplicate; how long a record may take is for the sink to say.
        producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - see the module
        try:
            await producer.start()
            present = {topic: len(await producer.partitions_for(topic)) for topic in topics}
        except BaseException as err:
            await producer.stop()
            if isinstance(err, BrokerResponseError) and not err.retriable:
                raise SinkError(
                    _refusal(addresses, "the cluster refuses to be written to", err)
                ) from err
            raise
        return cls(producer, present)

    def create_batch(self) -> BatchBuilder:
        """Return an empty batch, to be filled and given to ``send_batch``."""
        builder: BatchBuilder = self._producer.create_batch()
        return builder

    async def send_batch(
        self, builder: BatchBuilder, topic: str, partition: int
    ) -> asyncio.Future[object]:
        """Hand a batch over; the future is done when the broker answered for it.

        Does not wait while no other batch is queued for this partition.
        """
        future: asyncio.Future[object] = await self._producer.send_batch(
            builder, topic, partition=partition
        )
        return future

    async def abandon(self) -> None:
        """End within seconds, whatever is unanswered: nothing is sent from here any more."""
        sender, client = self._producer._sender.sender_task, self._producer.client  # noqa: SLF001
        # What stop() does but for its waiting: the batches' futures are left undone.
        self._producer._closed = True  # noqa: SLF001
        try:
            if not sender.done():
                # The first cancel makes it begin no request and wait for those under
                # way, which end with their connections; the second one ends it.
                sender.cancel()
                self._cut_connections()
                await asyncio.wait([sender], timeout=_ABANDON_TIMEOUT)
                sender.cancel()
                await asyncio.wait([sender], timeout=_ABANDON_TIMEOUT)
        finally:
            await client.close()
            waited_for = client._md_update_fut  # noqa: SLF001
            # Requests to other nodes may wait for metadata that nobody will fetch.
            if waited_for is not None and not waited_for.done():
                waited_for.set_result(False)

    def _cut_connections(self) -> None:
        for connection in self._producer.client._conns.values():  # noqa: SLF001 - see the module
            if connection._writer is not None:  # noqa: SLF001
                connection._writer.transport.abort()  # noqa: SLF001


def quieten_aiokafka() -> None:
    """Leave aiokafka's own account of every retry to level DEBUG: the sink sums up."""
    logger = logging.getLogger("aiokafka")
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)


async def why_unreachable(addresses: Sequence[str]) -> str:
    """Say in a few words what happens on a plain connection to each address."""
    return "; ".join([f"{address} {await _look(address)}" for address in addresses])


async def _look(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return "does not answer"
    except socket.gaierror:
        return "does not resolve to an address"
    except OSError as err:
        return os.strerror(err.errno).lower() if err.errno else str(err)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return "accepts connections but does not answer as a Kafka broker"


async def _create_missing(
    addresses: Sequence[str], wanted: Sequence[NewTopic], timeout_ms: int
) -> None:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(addresses), client_id=CLIENT_ID, request_timeout_ms=timeout_ms
    )
    try:
        await admin.start()
        # All topics are listed: asking for a missing one by name would let a
        # broker with automatic creation make it with partitions of its own choice.
        present = set(await admin.list_topics())
        missing = [topic for topic in wanted if topic.name not in present]
        if not missing:
            return
        answer = await admin.create_topics(missing)
    finally:
        await admin.close()
    for topic, code, *text in answer.topic_errors:
        error = for_code(code)
        if error in (NoError, TopicAlreadyExistsError):
            continue
        if error.retriable:
            raise error
        detail = KafkaError(text[0]) if text and text[0] else error()
        raise SinkError(_refusal(addresses, f"topic {topic} cannot be created", detail))


def _refusal(addresses: Sequence[str], what: str, err: BaseException) -> str:
    text = str(err).removeprefix("KafkaError: ")
    return (
        f"kafka://{','.join(addresses)}: {what}: {text}; "
        "create the topics by hand or give this client the right to create and write them"
    )

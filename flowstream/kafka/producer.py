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
import struct
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from flowstream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka.client import AIOKafkaClient
    from aiokafka.conn import AIOKafkaConnection, CloseReason

    from flowstream.kafka.lanes import BatchBuilder

CLIENT_ID = "flowstream"
# How long a request may take to notice that its connection is gone.
_ABANDON_TIMEOUT = 1.0
# The replication factor that means: the broker's default.
_DEFAULT_REPLICATION = -1


class Producer:
    """A started producer and the partition counts of its topics."""

    def __init__(self, producer: AIOKafkaProducer, partitions: dict[str, int]) -> None:
        self._producer = producer
        self._partitions = partitions

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
        metadata_age: float,
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
            metadata_max_age_ms=int(metadata_age * 1000),
        )
        _cut_what_is_closed(producer.client)
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

    def partitions(self, topic: str) -> int:
        """Return the number of partitions that the cluster was last seen to have."""
        present = self._producer.client.cluster.partitions_for_topic(topic)
        if present:
            self._partitions[topic] = len(present)
        return self._partitions[topic]

    async def send_batch(
        self, builder: BatchBuilder, topic: str, partition: int
    ) -> asyncio.Future[object]:
        """Hand a batch over; the future is done when the broker answered for it.

        Does not wait while no other batch is queued for this partition and the
        topic is known. Raises ``KafkaError``.
        """
        # aiokafka asserts it.
        if partition not in await self._producer.partitions_for(topic):
            raise UnknownTopicOrPartitionError(f"{topic} has no partition {partition} any more")
        future: asyncio.Future[object] = await self._producer.send_batch(
            builder, topic, partition=partition
        )
        return future

    def withdraw(self, topic: str, partition: int, records: int) -> None:
        """Take back a batch that was refused without being written.

        The next one gets its sequence numbers: after a gap the broker would
        refuse all later batches of this partition.
        """
        numbers = self._producer._txn_manager  # noqa: SLF001 - aiokafka never takes them back
        numbers.increment_sequence_number(TopicPartition(topic, partition), -records)

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
        for connection in tuple(self._producer.client._conns.values()):  # noqa: SLF001 - see above
            connection.close()


def _cut_what_is_closed(client: AIOKafkaClient) -> None:
    """Make the client's connections discard what they have not sent when they are closed.

    Else a request that timed out on a slow line goes on being sent, beside its own repetition.
    """
    closed = client._on_connection_closed  # noqa: SLF001 - called at every connection's end

    def cut(connection: AIOKafkaConnection, reason: CloseReason | None) -> None:
        transport = connection._protocol._transport  # noqa: SLF001 - its writer is gone by now
        if transport is not None:
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
        closed(connection, reason)

    client._on_connection_closed = cut  # noqa: SLF001


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

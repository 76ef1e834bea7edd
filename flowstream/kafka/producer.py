"""One idempotent Kafka producer: start, partition counts, and an end within a deadline.

aiokafka's ``stop`` and ``flush`` may wait for the broker forever (aiokafka issue
1101). So this module uses the producer's internals, as ``kafka.pacing`` does.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Self

from aiokafka.errors import (
    BrokerResponseError,
    IncompatibleBrokerVersion,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import TopicPartition

from flowstream.errors import SinkError
from flowstream.kafka.admin import create_missing, refusal
from flowstream.kafka.client import codec_of, new_producer
from flowstream.kafka.pacing import Retries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka import AIOKafkaProducer
    from aiokafka.client import AIOKafkaClient
    from aiokafka.conn import AIOKafkaConnection, CloseReason
    from aiokafka.protocol.api import Request

    from flowstream.kafka.lane import BatchBuilder
    from flowstream.kafka.settings import ClientSettings

# How long a request may take to notice that its connection is gone.
_ABANDON_TIMEOUT = 1.0
# The API key of requests that write records (ApiKeys.java).
_PRODUCE = 0


class Producer:
    """A started producer and the partition counts of its topics."""

    def __init__(
        self,
        producer: AIOKafkaProducer,
        partitions: dict[str, int],
        refused: Mapping[str, KafkaError],
        backoff: tuple[float, float],
    ) -> None:
        self.refused = refused
        """Topics that the cluster refuses to create or to show."""
        self._producer = producer
        self._partitions = partitions
        self._retries = Retries(producer, backoff, self.was_sent)
        # Partitions whose batch is in no request so far.
        self._unsent: set[tuple[str, int]] = set()
        self._sealed = False
        self._watch_requests(producer.client)

    @classmethod
    async def connect(
        cls,
        settings: ClientSettings,
        topics: Mapping[str, int],
        *,
        topic_settings: Mapping[str, str],
        batch_bytes: int,
        metadata_age: float,
        backoff: tuple[float, float],
        strict: bool,
    ) -> Self:
        """Create missing topics, with these numbers of partitions, and start a producer.

        May wait forever: the caller sets the deadline. Raises ``SinkError`` when
        the cluster refuses all topics, with ``strict`` any of them, and lets aiokafka's
        errors through where another attempt may succeed.
        """
        refused = await create_missing(settings, topics, topic_settings)
        producer = new_producer(
            settings,
            acks="all",
            enable_idempotence=True,
            max_batch_size=batch_bytes,
            compression_type=codec_of(settings),
            metadata_max_age_ms=int(metadata_age * 1000),
        )
        _cut_what_is_closed(producer.client)
        # By default a batch fails after a time without a leader, and its successor may be
        # a duplicate. The sink decides how long a record may take.
        producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - see the module
        try:
            await producer.start()
            present = await _shown(producer, topics, refused)
            _require_topics(settings, present, refused, all_of_them=strict)
        except BaseException as err:
            await producer.stop()
            if (lasting := _lasting(settings, err)) is not None:
                raise lasting from err
            raise
        return cls(producer, present, refused, backoff)

    @property
    def ended(self) -> bool:
        """Whether a task of aiokafka has ended: one sends, the other looks for leaders."""
        sender, client = self._producer._sender, self._producer.client  # noqa: SLF001 - see the module
        return bool(sender.sender_task.done() or client._sync_task.done())  # noqa: SLF001

    def create_batch(self) -> BatchBuilder:
        """Return an empty batch, to be filled and passed to ``send_batch``."""
        builder: BatchBuilder = self._producer.create_batch()
        return builder

    def partitions(self, topic: str) -> int:
        """Return the number of partitions, as last seen."""
        present = self._producer.client.cluster.partitions_for_topic(topic)
        if present:
            self._partitions[topic] = len(present)
        return self._partitions[topic]

    def shows(self, topic: str) -> bool:
        """Say whether the cluster has shown the topic of late."""
        return bool(self._producer.client.cluster.partitions_for_topic(topic))

    async def send_batch(
        self, builder: BatchBuilder, topic: str, partition: int
    ) -> asyncio.Future[object]:
        """Hand a batch over; the future is done once the broker answers.

        Does not wait if the topic is known and no other batch is queued for this
        partition. Raises ``KafkaError``; the batch is not sent then.
        """
        # aiokafka only asserts it, and waits for a topic that it does not know.
        if partition not in (self._producer.client.cluster.partitions_for_topic(topic) or ()):
            raise UnknownTopicOrPartitionError(f"there is no partition {partition} of {topic}")
        self._unsent.add((topic, partition))
        place = TopicPartition(topic, partition)
        self._retries.begin(place)
        future: asyncio.Future[object] = await self._producer.send_batch(
            builder, topic, partition=partition
        )
        future.add_done_callback(lambda _: self._retries.settled(place))
        return future

    def was_sent(self, topic: str, partition: int) -> bool:
        """Say whether the last batch of this partition may have been sent to a broker."""
        return (topic, partition) not in self._unsent

    def seal(self) -> None:
        """Send nothing from now on: ``was_sent`` is final."""
        self._sealed = True

    def answer(self, topic: str, partition: int) -> tuple[int, str]:
        """Return the error code of the last answer for this partition, and the broker's text."""
        return self._retries.answer(TopicPartition(topic, partition))

    def withdraw(self, topic: str, partition: int, records: int) -> bool:
        """Reuse the sequence numbers of a batch that was refused and not written.

        After a gap the broker would refuse all later batches of this partition.
        Returns False if an earlier attempt may have written it: the broker would take
        the next batch for the same. This producer is of no use then.
        """
        place = TopicPartition(topic, partition)
        if self._retries.may_be_written(place):
            return False
        numbers = self._producer._txn_manager  # noqa: SLF001 - aiokafka never reuses them
        numbers.increment_sequence_number(place, -records)
        return True

    async def abandon(self) -> None:
        """End within seconds, without waiting for answers."""
        self.seal()
        sender, client = self._producer._sender.sender_task, self._producer.client  # noqa: SLF001
        # As stop() does, but without waiting: the batches' futures stay pending.
        self._producer._closed = True  # noqa: SLF001
        try:
            if not sender.done():
                # After the first cancel it begins no request and waits for those in
                # progress, which end with their connections; the second one ends it.
                sender.cancel()
                self._cut_connections()
                await asyncio.wait([sender], timeout=_ABANDON_TIMEOUT)
                sender.cancel()
                await asyncio.wait([sender], timeout=_ABANDON_TIMEOUT)
        finally:
            await client.close()
            waited_for = client._md_update_fut  # noqa: SLF001
            # Requests to other nodes may wait for metadata that nobody fetches any more.
            if waited_for is not None and not waited_for.done():
                waited_for.set_result(False)

    def _watch_requests(self, client: AIOKafkaClient) -> None:
        """Note what is sent, and send nothing once sealed."""
        send = client.send

        async def watched(node_id: int, request: Request[Any], **options: Any) -> object:
            if request.API_KEY != _PRODUCE:
                return await send(node_id, request, **options)
            try:
                # As ``send`` does it, which only then writes to the connection.
                if not await client.ready(node_id) or self._sealed:
                    raise NodeNotReadyError(f"node {node_id}")
                # Which batches are in a request aiokafka does not say in all versions.
                self._unsent.clear()
                answer = await send(node_id, request, **options)
            except KafkaError:
                self._retries.request_failed(node_id)
                raise
            self._retries.answered(node_id, answer)
            return answer

        client.send = watched

    def _cut_connections(self) -> None:
        for connection in tuple(self._producer.client._conns.values()):  # noqa: SLF001 - see above
            connection.close()


async def _shown(
    producer: AIOKafkaProducer, topics: Mapping[str, int], refused: dict[str, KafkaError]
) -> dict[str, int]:
    """Return the numbers of partitions; topics that are not shown go to ``refused``."""
    present = dict(topics)
    for topic in topics.keys() - refused:
        try:
            present[topic] = len(await producer.partitions_for(topic))
        except TopicAuthorizationFailedError as err:
            refused[topic] = err
    return present


def _require_topics(
    settings: ClientSettings,
    present: Mapping[str, int],
    refused: Mapping[str, KafkaError],
    *,
    all_of_them: bool,
) -> None:
    for topic, count in present.items():
        if not count:
            raise SinkError(f"topic {topic}: the cluster shows no partition; create it anew")
    if refused and (all_of_them or len(refused) == len(present)):
        topic, err = next(iter(refused.items()))
        raise SinkError(refusal(settings, f"topic {topic} cannot be created or written", err))


def _lasting(settings: ClientSettings, err: BaseException) -> SinkError | None:
    """Return the ``SinkError`` for an error that another attempt does not cure."""
    if isinstance(err, IncompatibleBrokerVersion):
        return SinkError(
            f"{settings.url}: the brokers are too old: {err}; use Kafka 0.11 or later"
        )
    if isinstance(err, BrokerResponseError) and not err.retriable:
        return SinkError(refusal(settings, "the cluster refuses this producer", err))
    return None


def _cut_what_is_closed(client: AIOKafkaClient) -> None:
    """Make the client's connections discard unsent data when they are closed.

    Otherwise a request that timed out on a slow line is sent on, beside its own repetition.
    """
    closed = client._on_connection_closed  # noqa: SLF001 - called when a connection ends

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

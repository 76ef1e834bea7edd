"""Reading topics back from a Kafka cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from flowstream.errors import SourceError
from flowstream.source import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiokafka import ConsumerRecord

# Seconds: for connecting and the first answers, and for anything new to arrive.
CONNECT_TIMEOUT = 10.0
PROGRESS_TIMEOUT = 15.0
_CLIENT_ID = "flowstream"
_POLL_MS = 500
_STOP_TIMEOUT = 2.0
_MAX_RECORDS = 8192


class KafkaSource:
    """Topics of the cluster at ``addresses`` (HOST:PORT); see ``flowstream.source.Source``."""

    warnings: Sequence[str] = ()

    def __init__(self, addresses: Sequence[str], topics: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._url = f"kafka://{','.join(addresses)}"
        self._topics = tuple(topics)

    async def sizes(self) -> dict[str, list[int]]:
        """Return the offsets between beginning and end of each partition."""
        consumer = self._consumer()
        try:
            begins, ends = await self._offsets(consumer)
        finally:
            await _stop(consumer)
        sizes: dict[str, list[int]] = {topic: [] for topic in self._topics}
        for place in sorted(ends):
            sizes[place.topic].append(ends[place] - begins[place])
        return sizes

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield all messages up to the end offsets at the start, in order within a partition."""
        consumer = self._consumer()
        try:
            ends = await self._begin(consumer)
            async for batch in self._read(consumer, ends):
                yield batch
        finally:
            await _stop(consumer)

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._addresses,
            client_id=_CLIENT_ID,
            enable_auto_commit=False,
            auto_offset_reset="none",
            request_timeout_ms=int(CONNECT_TIMEOUT * 1000),
        )

    async def _begin(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Assign every partition from its beginning; return the end offsets of those to read."""
        begins, ends = await self._offsets(consumer)
        ends = {partition: end for partition, end in ends.items() if end > begins[partition]}
        consumer.assign(list(ends))
        for partition in ends:
            consumer.seek(partition, begins[partition])
        return ends

    async def _offsets(
        self, consumer: AIOKafkaConsumer
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Start the consumer; return the first and the next offset of every partition."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                partitions = await self._partitions()
                await consumer.start()
                return (
                    await consumer.beginning_offsets(partitions),
                    await consumer.end_offsets(partitions),
                )
        except (KafkaError, OSError, TimeoutError) as err:
            raise SourceError(
                f"{self._url}: cannot be read: {str(err) or 'no answer in time'}; "
                "check the address and that the broker is up"
            ) from err

    async def _partitions(self) -> list[TopicPartition]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._addresses, client_id=_CLIENT_ID)
        try:
            await admin.start()
            # All topics are listed: asking for a missing one by name could create it.
            described = await admin.describe_topics()
        finally:
            await admin.close()
        present = {topic["topic"]: topic["partitions"] for topic in described}
        missing = [topic for topic in self._topics if topic not in present]
        if missing:
            raise SourceError(f"{self._url}: no topic {', '.join(missing)}")
        return [
            TopicPartition(topic, partition["partition"])
            for topic in self._topics
            for partition in present[topic]
        ]

    async def _read(
        self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]
    ) -> AsyncIterator[list[Message]]:
        now = asyncio.get_running_loop().time
        progress = now()
        while ends:
            try:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
            except KafkaError as err:
                raise SourceError(f"{self._url}: {await _place(consumer, ends)}: {err}") from err
            for partition, records in fetched.items():
                progress = now()
                batch = [_message(record) for record in records if record.offset < ends[partition]]
                if batch:
                    yield batch
            # The position also passes what is no record, such as transaction markers.
            for partition in list(ends):
                if await consumer.position(partition) >= ends[partition]:
                    del ends[partition]
                    consumer.pause(partition)
            if ends and now() - progress > PROGRESS_TIMEOUT:
                place = await _place(consumer, ends)
                raise SourceError(f"{self._url}: {place}: nothing for {PROGRESS_TIMEOUT:g} s")


def _message(record: ConsumerRecord[bytes, bytes]) -> Message:
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value or b"",
        tuple(record.headers),
        record.value is None,
    )


async def _place(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> str:
    partition, end = next(iter(ends.items()))
    offset = await consumer.position(partition)
    return f"topic {partition.topic}, partition {partition.partition}, offset {offset} of {end}"


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stop the consumer; one whose broker is gone is left behind after a deadline."""
    task = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([task], timeout=_STOP_TIMEOUT)
    task.cancel()

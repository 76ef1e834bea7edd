"""Reading topics back from a Kafka cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnsupportedCodecError

from flowstream.errors import SourceError
from flowstream.messages import Message
from flowstream.segments.compression import INSTALL, NAMES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiokafka import ConsumerRecord

# Seconds: for connecting and the first answers, and for anything new to arrive.
CONNECT_TIMEOUT = 10.0
PROGRESS_TIMEOUT = 15.0
_CLIENT_ID = "flowstream"
# Seconds between looks at what came, while nothing comes.
_IDLE_PAUSE = 0.005
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
            idle = True
            for partition, end in list(ends.items()):
                async for batch in self._fetched(consumer, partition, end):
                    idle = False
                    yield batch
                # The position also passes what is no record, such as transaction markers.
                if await consumer.position(partition) >= end:
                    del ends[partition]
                    consumer.pause(partition)
            if not idle:
                progress = now()
                continue
            if ends and now() - progress > PROGRESS_TIMEOUT:
                place = await _place(consumer, *next(iter(ends.items())))
                raise SourceError(f"{self._url}: {place}: nothing for {PROGRESS_TIMEOUT:g} s")
            await asyncio.sleep(_IDLE_PAUSE)

    async def _fetched(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, end: int
    ) -> AsyncIterator[list[Message]]:
        """Yield what has come of one partition; SourceError, after all before it, where it ends.

        Only one: of an error aiokafka does not say to which partition it belongs.
        """
        records: list[ConsumerRecord[bytes, bytes]] = []
        error: Exception | None = None
        try:
            fetched = await consumer.getmany(partition, max_records=_MAX_RECORDS)
            records = fetched.get(partition, [])
        except Exception:  # noqa: BLE001 - codecs have errors of their own
            # With the error aiokafka throws away what came before it: once more, one by one.
            error = await _read_singly(consumer, partition, records)
        topic, number = partition
        if batch := [Message.of(topic, number, each) for each in records if each.offset < end]:
            yield batch
        if error is not None:
            place = await _place(consumer, partition, end)
            raise SourceError(f"{self._url}: {place}: {_why(error)}") from error


async def _read_singly(
    consumer: AIOKafkaConsumer,
    partition: TopicPartition,
    records: list[ConsumerRecord[bytes, bytes]],
) -> Exception | None:
    """Append to ``records`` what precedes an error, and return that; None when it is gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROGRESS_TIMEOUT):
            while len(records) < _MAX_RECORDS:
                try:
                    records.append(await consumer.getone(partition))
                except Exception as err:  # noqa: BLE001 - as above
                    return err
    return None


async def _place(consumer: AIOKafkaConsumer, partition: TopicPartition, end: int) -> str:
    offset = await consumer.position(partition)
    return f"topic {partition.topic}, partition {partition.partition}, offset {offset} of {end}"


def _why(error: Exception) -> str:
    if isinstance(error, UnsupportedCodecError):
        name = next((name for name in NAMES.values() if name in str(error)), "an unknown codec")
        return f"a batch compressed with {name}; {INSTALL} reads it"
    return str(error) or repr(error)


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stop the consumer; one whose broker is gone is left behind after a deadline."""
    task = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([task], timeout=_STOP_TIMEOUT)
    task.cancel()

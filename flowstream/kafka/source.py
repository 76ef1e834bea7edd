"""Reading topics from a Kafka cluster."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from flowstream.errors import FlowstreamError, MissingExtraError, MissingTopicError, SourceError
from flowstream.kafka.admin import existing_partitions, prefixed_topics, user_of
from flowstream.kafka.client import admin_client, load, new_consumer, rack_of
from flowstream.kafka.diagnosis import why_unreachable
from flowstream.kafka.topic_settings import deletions, described
from flowstream.kafka.unpacking import bounded_unpacking
from flowstream.messages import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiokafka import ConsumerRecord
    from aiokafka.admin import AIOKafkaAdminClient

    from flowstream.kafka.settings import ClientSettings

# Seconds: for connecting and the first answers, and for anything new to arrive.
CONNECT_TIMEOUT = 10.0
PROGRESS_TIMEOUT = 15.0
# Seconds between checks for new records while there are none: short for records that
# exist already, longer when following.
_READING_PAUSE = 0.005
_FOLLOWING_PAUSE = 0.05
_STOP_TIMEOUT = 2.0
# Topics that an error suggests.
_NAMED = 3
_MAX_RECORDS = 8192


class KafkaSource:
    """Topics of a cluster; see ``flowstream.source.Source``.

    Partitions that are added while it follows are noticed within ``metadata_age``
    seconds.
    """

    def __init__(
        self, settings: ClientSettings, topics: Sequence[str], *, metadata_age: float = 10.0
    ) -> None:
        load(settings)
        self.warnings: Sequence[str] = ()
        self._settings = settings
        self._url = settings.url
        self._topics = tuple(topics)
        self._metadata_age = settings.metadata_max_age or metadata_age

    async def sizes(self) -> dict[str, list[int]]:
        """Return the number of offsets between beginning and end of each partition."""
        consumer = self._consumer()
        try:
            begins, ends = await self._offsets(consumer)
        finally:
            await _stop(consumer)
        sizes: dict[str, list[int]] = {topic: [] for topic in self._topics}
        for place in sorted(ends):
            sizes[place.topic].append(ends[place] - begins[place])
        return sizes

    async def batches(
        self, *, follow: bool = False, since_ms: int | None = None
    ) -> AsyncIterator[list[Message]]:
        """Yield all messages up to the present ends; with ``follow``, then later ones too.

        Each partition begins at its first message of ``since_ms`` or later.
        """
        consumer = self._consumer()
        try:
            begins, ends = await self._offsets(consumer, since_ms)
            _assign(consumer, begins)
            batches = self._follow(consumer) if follow else self._read(consumer, begins, ends)
            async for batch in batches:
                yield batch
        finally:
            await _stop(consumer)

    def _consumer(self) -> AIOKafkaConsumer:
        return new_consumer(
            self._settings,
            **rack_of(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            metadata_max_age_ms=int(self._metadata_age * 1000),
        )

    async def _offsets(
        self, consumer: AIOKafkaConsumer, since_ms: int | None = None
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Start the consumer; return the first and the next offset of every partition."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                partitions = await self._partitions()
                await consumer.start()
                begins = await consumer.beginning_offsets(partitions)
                ends = await consumer.end_offsets(partitions)
                if since_ms is not None:
                    later = await _offsets_of_time(consumer, ends, since_ms)
                    begins = {place: max(first, later[place]) for place, first in begins.items()}
        except SourceError:
            raise
        except Exception as err:  # a listener that is not a broker causes errors of any kind
            refused = isinstance(err, BrokerResponseError)
            why = str(err) if refused else await why_unreachable(self._settings)
            raise SourceError(f"{self._url}: cannot be read: {why}") from err
        for place in partitions:
            if not 0 <= begins.get(place, -1) <= ends.get(place, -1):
                topic, partition = place
                raise SourceError(
                    f"{self._url}: topic {topic}, partition {partition}: "
                    f"the broker's offsets are {begins.get(place)} to {ends.get(place)}"
                )
        return begins, ends

    async def _partitions(self) -> list[TopicPartition]:
        async with admin_client(self._settings) as admin:
            counts = await existing_partitions(admin, self._topics)
            self.warnings = await _losses(admin, [topic for topic in counts if counts[topic]])
            missing = [topic for topic, count in counts.items() if not count]
            similar = await prefixed_topics(admin, missing) if missing else []
        if missing:
            unseen = ""
            if self._settings.sasl or (self._settings.tls and self._settings.tls.certificate):
                unseen = f", or {user_of(self._settings)} is not authorised to describe it"
            meant = f"; did you mean {', '.join(similar[:_NAMED])}?" if similar else ""
            text = f"{self._url}: no topic {', '.join(missing)}{unseen}{meant}"
            raise MissingTopicError(text, tuple(missing))
        return [
            TopicPartition(topic, partition)
            for topic, count in counts.items()
            for partition in range(count)
        ]

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        begins: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> AsyncIterator[list[Message]]:
        unread = {partition: end for partition, end in ends.items() if end > begins[partition]}
        consumer.pause(*(ends.keys() - unread.keys()))
        now = asyncio.get_running_loop().time
        progress = now()
        while unread:
            idle = True
            for partition, end in list(unread.items()):
                async for batch in self._fetched(consumer, partition, end):
                    idle = False
                    yield batch
                # The position also passes offsets without a record, such as transaction markers.
                if await consumer.position(partition) >= end:
                    del unread[partition]
                    consumer.pause(partition)
            if not idle:
                progress = now()
                continue
            if unread and now() - progress > PROGRESS_TIMEOUT:
                place = await _place(consumer, *next(iter(unread.items())))
                raise SourceError(f"{self._url}: {place}: nothing for {PROGRESS_TIMEOUT:g} s")
            await asyncio.sleep(_READING_PAUSE)

    async def _follow(self, consumer: AIOKafkaConsumer) -> AsyncIterator[list[Message]]:
        while True:
            idle = True
            for partition in sorted(consumer.assignment()):
                async for batch in self._fetched(consumer, partition, None):
                    idle = False
                    yield batch
            if idle:
                await self._assign_added(consumer)
                await asyncio.sleep(_FOLLOWING_PAUSE)

    async def _assign_added(self, consumer: AIOKafkaConsumer) -> None:
        """Start to read partitions that were added, from their beginning."""
        present = {
            TopicPartition(topic, partition)
            for topic in self._topics
            for partition in consumer.partitions_for_topic(topic) or ()
        }
        added = present - consumer.assignment()
        if added:
            positions = {place: await consumer.position(place) for place in consumer.assignment()}
            _assign(consumer, positions | await consumer.beginning_offsets(added))

    async def _fetched(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, end: int | None
    ) -> AsyncIterator[list[Message]]:
        """Yield what has arrived of one partition before ``end``; then raise any SourceError.

        One partition at a time: aiokafka's errors do not name theirs.
        """
        records: list[ConsumerRecord[bytes, bytes]] = []
        error: Exception | None = None
        try:
            with bounded_unpacking():
                fetched = await consumer.getmany(partition, max_records=_MAX_RECORDS)
            records = fetched.get(partition, [])
        except Exception:  # noqa: BLE001 - codecs have errors of their own
            # aiokafka discards what precedes the error: read that again, one by one.
            error = await _read_singly(consumer, partition, records)
        topic, number = partition
        batch = [
            Message.of(topic, number, each) for each in records if end is None or each.offset < end
        ]
        if batch:
            yield batch
        if error is not None:
            place = await _place(consumer, partition, end)
            if isinstance(error, TopicAuthorizationFailedError):
                who = user_of(self._settings)
                raise SourceError(
                    f"{self._url}: {place}: {who} is not authorised to read it; allow it Read"
                ) from error
            raise _fault(f"{self._url}: {place}", error) from error


async def _losses(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> list[str]:
    """Return a warning for each setting that deletes records, of topics that tell theirs."""
    # This is only advice, and a listener that is not a broker causes errors of any kind.
    with contextlib.suppress(Exception):
        found = await described(admin, topics)
        return [str(each) for topic in found for each in deletions(topic, found[topic])]
    return []


async def _offsets_of_time(
    consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], since_ms: int
) -> dict[TopicPartition, int]:
    """Offset of the first message of this time or later; the end where there is none."""
    found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
    return {place: found[place].offset if found[place] else end for place, end in ends.items()}


def _assign(consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> None:
    """Read these partitions, each from its position on."""
    consumer.assign(list(positions))
    for partition, offset in positions.items():
        consumer.seek(partition, offset)


async def _read_singly(
    consumer: AIOKafkaConsumer,
    partition: TopicPartition,
    records: list[ConsumerRecord[bytes, bytes]],
) -> Exception | None:
    """Append to ``records`` what precedes an error; return the error, None if it is gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROGRESS_TIMEOUT):
            while len(records) < _MAX_RECORDS:
                try:
                    with bounded_unpacking():
                        records.append(await consumer.getone(partition))
                except Exception as err:  # noqa: BLE001 - as above
                    return err
    return None


async def _place(consumer: AIOKafkaConsumer, partition: TopicPartition, end: int | None) -> str:
    offset = await consumer.position(partition)
    of = "" if end is None else f" of {end}"
    return f"topic {partition.topic}, partition {partition.partition}, offset {offset}{of}"


def _fault(place: str, error: Exception) -> FlowstreamError:
    if isinstance(error, UnsupportedCodecError):
        named = re.search(r"for (\w+) compression", str(error))
        codec = named[1] if named else "an unknown codec"
        return MissingExtraError("kafka", f"{place}: a batch compressed with {codec}")
    return SourceError(f"{place}: {str(error) or repr(error)}")


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stop the consumer; one whose broker is gone is left behind after a deadline."""
    task = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([task], timeout=_STOP_TIMEOUT)
    task.cancel()

"""A topic for one test: in a broker, or in the process, read by a consumer double."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from flowstream.errors import SinkError, UsageError
from flowstream.kafka.client import admin_client, new_consumer
from flowstream.kafka.settings import KEEP_FOREVER
from flowstream.kafka.sink import KafkaSink
from flowstream.recording.copying import Copy, cluster_settings
from flowstream.testing.consumer import ConsumerDouble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowstream.messages import Message

_TIMEOUT = 60.0


class ReplayedTopic(Protocol):
    """A topic with known messages.

    ``consumer`` replaces the class AIOKafkaConsumer and takes the same arguments:
    topics (without any, this one; its recorded name works too) and settings. The
    consumer reads from the beginning, whatever ``auto_offset_reset`` says, and ends
    after the last message unless ``wait`` is set.
    """

    @property
    def topic(self) -> str:
        """Name to subscribe to."""

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the broker, for other clients; UsageError without a broker."""

    @property
    def messages(self) -> Sequence[Message]:
        """Messages of the topic."""

    @property
    def consumer(self) -> Callable[..., Any]:
        """Make a consumer, not started yet."""


class DoubleTopic:
    """A topic in the process."""

    def __init__(self, topic: str, messages: Sequence[Message]) -> None:
        self.topic = topic
        self.messages = [message._replace(topic=topic) for message in messages]

    @property
    def bootstrap_servers(self) -> str:
        """Raise UsageError: there is no broker."""
        raise UsageError(
            "no broker: give pytest --flowstream-broker kafka://HOST:PORT or set FLOWSTREAM_BROKER"
        )

    def consumer(self, *topics: str, wait: bool = False, **settings: Any) -> ConsumerDouble:
        """Make a double; it uses the deserializers and ignores other settings.

        Raises TypeError for an unknown setting.
        """
        inspect.signature(AIOKafkaConsumer).bind(*topics, **settings)
        deserializers = {
            name: value for name, value in settings.items() if name.endswith("_deserializer")
        }
        return ConsumerDouble(
            *(topics or [self.topic]),
            messages=self.messages,
            empty=[self.topic],
            wait=wait,
            **deserializers,
        )


class BrokerTopic:
    """A topic in a broker, with a unique name; a context manager that deletes it."""

    def __init__(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        self._settings = cluster_settings(url)
        self._recorded = topic
        self.topic = f"{topic[:200]}.{uuid.uuid4().hex[:12]}"
        self.messages = [message._replace(topic=self.topic) for message in messages]

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the broker."""
        return ",".join(self._settings.addresses)

    def consumer(self, *topics: str, wait: bool = False, **settings: Any) -> AIOKafkaConsumer:
        """Make a consumer of this broker, whatever broker the settings name."""
        settings.pop("bootstrap_servers", None)
        # A service that reads only what arrives from now on would find nothing.
        settings["auto_offset_reset"] = "earliest"
        names = [self.topic if topic == self._recorded else topic for topic in topics]
        kind = AIOKafkaConsumer if wait else EndingConsumer
        return new_consumer(self._settings, *(names or [self.topic]), kind=kind, **settings)

    def __enter__(self) -> Self:
        _run(self._fill())
        return self

    def __exit__(self, *_: object) -> None:
        _run(self._delete())

    async def _fill(self) -> None:
        count = 1 + max((message.partition for message in self.messages), default=0)
        with Copy("replaying", len(self.messages)) as copy:
            sink = KafkaSink(
                self._settings,
                copy,
                partitions=count,
                topic_settings=KEEP_FOREVER,
            )
            await sink.start([self.topic])
            try:
                for _, messages in itertools.groupby(self.messages, lambda m: m.partition):
                    await copy.send(sink, list(messages))
                await copy.finish(sink)
            except SinkError:
                await self._delete()
                raise
            finally:
                await sink.close(1)

    async def _delete(self) -> None:
        async with admin_client(self._settings) as admin:
            await admin.delete_topics([self.topic])


class EndingConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """A consumer whose ``async for`` ends at the topic's end as of its beginning."""

    def __init__(self, *topics: str, **settings: Any) -> None:
        super().__init__(*topics, **settings)
        self._ends: dict[TopicPartition, int] = {}

    async def __anext__(self) -> ConsumerRecord[Any, Any]:
        """Return the next record, until every assigned partition is at its end."""
        partitions = self.assignment()
        if unknown := partitions - self._ends.keys():
            self._ends |= await self.end_offsets(unknown)
        # While the consumer's group forms, nothing is assigned.
        if partitions and not [
            partition
            for partition in partitions
            if await self.position(partition) < self._ends[partition]
        ]:
            raise StopAsyncIteration
        record: ConsumerRecord[Any, Any] = await super().__anext__()
        return record


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end in a thread: the calling test may run in an event loop itself."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, asyncio.wait_for(work, _TIMEOUT)).result()

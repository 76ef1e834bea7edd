"""Topics of one test: in the process, or in a broker under names of their own."""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

from aiokafka.errors import KafkaConnectionError

from flowstream.errors import SinkError, UsageError
from flowstream.kafka.admin import create_missing
from flowstream.kafka.client import admin_client, new_consumer
from flowstream.kafka.diagnosis import why_unreachable
from flowstream.kafka.settings import DEFAULT_CLIENT, KEEP_FOREVER
from flowstream.kafka.sink import KafkaSink
from flowstream.recording.copying import Copy, cluster_settings
from flowstream.testing.cluster import DoubleCluster
from flowstream.testing.consumer import ConsumerDouble
from flowstream.testing.isolated import IsolatedConsumer
from flowstream.testing.names import IsolatedNames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message

_TIMEOUT = 60.0
_LONGEST_NAME = 249
# Settings that would connect to the service's own broker.
_CONNECTING = re.compile(r"bootstrap_servers|security_protocol|ssl_context|sasl_\w+").fullmatch


class ReplayedTopics(Protocol):
    """Topics with known messages.

    ``consumer`` replaces the class AIOKafkaConsumer and takes the same arguments. The
    consumer uses the recorded names of topics, reads from the beginning whatever
    ``auto_offset_reset`` says, and ends after the last message unless ``wait`` is set.
    """

    @property
    def topic(self) -> str:
        """Name of the first topic in the broker, for clients other than ``consumer``."""

    @property
    def names(self) -> Mapping[str, str]:
        """Name of every topic in the broker, by its recorded name."""

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the broker, for other clients; UsageError without a broker."""

    @property
    def messages(self) -> Sequence[Message]:
        """All messages, with their recorded topics and their offsets in the new topics."""

    @property
    def consumer(self) -> Callable[..., Any]:
        """Make a consumer, not started yet."""


class _Topics:
    """``messages`` get new offsets; ``partitions`` are the least numbers of partitions."""

    def __init__(self, messages: Iterable[Message], partitions: Mapping[str, int]) -> None:
        self._partitions = dict(partitions)
        self.messages: list[Message] = []
        offsets: defaultdict[tuple[str, int], int] = defaultdict(int)
        for message in messages:
            place = (message.topic, message.partition)
            self.messages.append(message._replace(offset=offsets[place]))
            offsets[place] += 1
            known = self._partitions.get(message.topic, 1)
            self._partitions[message.topic] = max(known, message.partition + 1)
        self.names = {topic: topic for topic in self._partitions}

    @property
    def topic(self) -> str:
        """Name of the first topic in the broker."""
        return next(iter(self.names.values()))


class DoubleTopics(_Topics):
    """Topics in the process."""

    def __init__(self, messages: Iterable[Message], partitions: Mapping[str, int]) -> None:
        super().__init__(messages, partitions)
        self._cluster = DoubleCluster(self.messages, self._partitions)

    @property
    def bootstrap_servers(self) -> str:
        """Raise UsageError: there is no broker."""
        raise UsageError(
            "no broker: give pytest --flowstream-broker kafka://HOST:PORT or set FLOWSTREAM_BROKER"
        )

    def consumer(self, *topics: str, wait: bool = False, **settings: Any) -> ConsumerDouble:
        """Make a double. Settings of connections and timeouts have no effect.

        Raises TypeError for an unknown setting, NotImplementedError for one that
        only a broker can follow.
        """
        return ConsumerDouble(*topics, cluster=self._cluster, wait=wait, **settings)


class BrokerTopics(_Topics):
    """Topics in a broker, with unique names; a context manager that deletes them."""

    def __init__(
        self,
        url: str,
        messages: Iterable[Message],
        partitions: Mapping[str, int],
        client: ClientSettings = DEFAULT_CLIENT,
    ) -> None:
        super().__init__(messages, partitions)
        self._settings = cluster_settings(url, client)
        self._suffix = f".{uuid.uuid4().hex[:12]}"
        longest = _LONGEST_NAME - len(self._suffix)
        self.names = {topic: topic[:longest] + self._suffix for topic in self._partitions}

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the broker."""
        return ",".join(self._settings.addresses)

    def consumer(self, *topics: str, wait: bool = False, **settings: Any) -> IsolatedConsumer:
        """Make a consumer of this broker, whichever broker the settings name."""
        settings = {name: value for name, value in settings.items() if not _CONNECTING(name)}
        # A service that reads only what arrives from now on would find nothing.
        settings["auto_offset_reset"] = "earliest"
        # A member that an earlier test did not stop would get a share of the partitions.
        if settings.get("group_id") is not None:
            settings["group_id"] += self._suffix
        consumer: IsolatedConsumer = new_consumer(
            self._settings,
            *topics,
            kind=IsolatedConsumer,
            names=IsolatedNames(self.names, self._partitions),
            wait=wait,
            **settings,
        )
        return consumer

    def __enter__(self) -> Self:
        _run(self._fill())
        return self

    def __exit__(self, *_: object) -> None:
        _run(self._delete())

    async def _fill(self) -> None:
        counts = {self.names[topic]: count for topic, count in self._partitions.items()}
        try:
            await create_missing(self._settings, counts, KEEP_FOREVER)
        except KafkaConnectionError as err:
            why = await why_unreachable(self._settings)
            raise SinkError(f"{self._settings.url}: {why}") from err
        try:
            with Copy("replaying", len(self.messages)) as copy:
                await self._send(copy)
        except SinkError:
            await self._delete()
            raise

    async def _send(self, copy: Copy) -> None:
        sink = KafkaSink(self._settings, copy, partitions=1, topic_settings=KEEP_FOREVER)
        await sink.start(list(self.names.values()))
        try:
            messages = [m._replace(topic=self.names[m.topic]) for m in self.messages]
            messages.sort(key=_place)
            for _, group in itertools.groupby(messages, _place):
                await copy.send(sink, list(group))
            await copy.finish(sink)
        finally:
            await sink.close(1)

    async def _delete(self) -> None:
        async with admin_client(self._settings) as admin:
            await admin.delete_topics(list(self.names.values()))


def _place(message: Message) -> tuple[str, int]:
    return message.topic, message.partition


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end in a thread: the calling test may run in an event loop itself."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, asyncio.wait_for(work, _TIMEOUT)).result()

"""What the fixtures return, for any scope."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

from flowstream.testing.counters import CountersFactory
from flowstream.testing.factory import FlowFactory
from flowstream.testing.recorded import Recording
from flowstream.testing.replayed import BrokerTopics, DoubleTopics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.testing.replayed import ReplayedTopics


class Fixtures:
    """The fixtures of a test, a module or a session; a context manager.

    Relative paths start at ``directory``. Topics are created in the broker at ``url`` and
    deleted at the end of the scope; without a URL they are in the process. Each factory
    numbers its records through the whole scope. ``client`` are the settings for the broker.
    """

    def __init__(self, directory: Path, url: str | None, client: ClientSettings) -> None:
        self._directory, self._url, self._client = directory, url, client
        self._topics = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._topics.close()

    @cached_property
    def flow_factory(self) -> FlowFactory:
        """Make flow records, their values and messages."""
        return FlowFactory()

    @cached_property
    def counters_factory(self) -> CountersFactory:
        """Make counters records, their values and messages."""
        return CountersFactory()

    def recording(self, path: str | Path) -> Recording:
        """Open a recording."""
        return Recording(self._directory / path)

    def replayed_topic(
        self, source: str | Path | Iterable[Message], topic: str = "flowstream.flows"
    ) -> ReplayedTopics:
        """Make one topic from a recording's topic of that name, or from messages."""
        if isinstance(source, (str, os.PathLike)):
            return self.replayed_topics(source, [topic])
        return self.replayed_topics([each._replace(topic=topic) for each in source], [topic])

    def replayed_topics(
        self, source: str | Path | Iterable[Message], topics: Collection[str] = ()
    ) -> ReplayedTopics:
        """Make several topics from a recording (by default all of its topics) or from messages.

        ``topics`` that have no messages are created empty.
        """
        if isinstance(source, (str, os.PathLike)):
            recording = self.recording(source)
            topics = topics or recording.topics
            partitions = recording.partitions(topics)
            messages = [message for topic in topics for message in recording.messages(topic)]
        else:
            messages, partitions = list(source), dict.fromkeys(topics, 1)
        if self._url:
            topics_there = BrokerTopics(self._url, messages, partitions, self._client)
            return self._topics.enter_context(topics_there)
        return DoubleTopics(messages, partitions)

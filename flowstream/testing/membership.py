"""The part of a consumer double that subscribes, joins its group and shares partitions."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalOperation,
    IllegalStateError,
    KafkaError,
)

from flowstream.testing.assignment import Assignment
from flowstream.testing.names import matching
from flowstream.testing.settings import checked_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from aiokafka import TopicPartition

    from flowstream.testing.cluster import DoubleCluster, Group

logger: Final = logging.getLogger(__name__)


class Membership:
    """Life, subscription and assignment of a consumer double; a ``Member`` of its group."""

    def __init__(
        self, *topics: str, cluster: DoubleCluster, wait: bool = False, **settings: Any
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._settings = checked_settings(topics, settings)
        self.assignors: Sequence[Any] = self._settings["partition_assignment_strategy"]
        self._cluster, self._wait = cluster, wait
        group_id = self._settings["group_id"]
        self._group: Group | None = None if group_id is None else cluster.group(group_id)
        self._kind: str | None = None
        self._topics: frozenset[str] = frozenset()
        self._listener: ConsumerRebalanceListener | None = None
        self._assignment: Assignment | None = None
        # Held until the rebalance that a new subscription causes.
        self._former: Assignment | None = None
        self._rebalancing = self._started = self._stopped = False
        self._joining: asyncio.Task[None] | None = None
        self._next_commit = 0.0
        # Set by everything that may end a wait.
        self._changed = asyncio.Event()
        if topics:
            self._subscribe("topics", topics)

    async def start(self) -> None:
        """Join the group, or take all partitions of the topics; required before reading."""
        if self.loop is not asyncio.get_running_loop():
            raise AssertionError("the consumer was made in another event loop")
        if self._started:
            raise AssertionError("start was called twice")
        self._cluster.require_topics(self._topics)
        self._started = True
        self._next_commit = self._commit_time()
        if self._kind in ("topics", "pattern"):
            await self._join()

    async def stop(self) -> None:
        """Commit, leave the group and end all waits; harmless twice."""
        if self._stopped:
            return
        with contextlib.suppress(KafkaError):
            await self._joined()
        self._auto_commit(self._assignment)
        self._stopped = True
        self._changed.set()
        if self._group:
            await self._group.leave(self)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- subscription and assignment -----------------------------------------------------------

    def subscribe(
        self,
        topics: Collection[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read topics, or the topics whose names match; the assignment follows at the next read.

        ``listener`` is called before and after each rebalance of a group, and never
        without a group.
        """
        _check_subscription(topics, pattern, listener)
        if pattern is None:
            self._cluster.require_topics(topics)
            self._subscribe("topics", topics, listener)
        else:
            self._subscribe("pattern", matching(pattern, self._cluster.topics()), listener)
        self._former, self._assignment = self._assignment, None
        if self._started and not self._stopped:
            self._joining = self.loop.create_task(self._join())

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions, without a share of the group."""
        partitions = list(partitions)
        self._cluster.require_partitions(partitions)
        self._subscribe("partitions", {place.topic for place in partitions})
        committed = self._group.committed if self._group else {}
        self._assignment = Assignment(self._cluster, partitions, committed)
        self._changed.set()

    def unsubscribe(self) -> None:
        """Read nothing, and leave the group."""
        self._kind, self._topics, self._listener = None, frozenset(), None
        self._assignment = None
        if self._group and self._started:
            self._joining = self.loop.create_task(self._group.leave(self))
        self._changed.set()

    def subscription(self) -> frozenset[str]:
        """Return the subscribed topics."""
        return self._topics

    def assignment(self) -> set[TopicPartition]:
        """Return the assigned partitions."""
        return set(self._assignment.positions) if self._assignment else set()

    async def topics(self) -> set[str]:
        """Return all topics."""
        return self._cluster.topics()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions of a topic, None if it does not exist."""
        return self._cluster.partitions_for_topic(topic)

    async def revoke(self) -> None:
        """Stop reading, commit and call the listener; see ``Member``."""
        self._rebalancing = True
        held = self._assignment or self._former
        self._auto_commit(held)
        await self._tell("on_partitions_revoked", set(held.positions) if held else set())

    async def receive(self, partitions: set[TopicPartition]) -> None:
        """Begin at the committed offsets, after calling the listener; see ``Member``."""
        committed = self._group.committed if self._group else {}
        self._former = None
        self._assignment = Assignment(self._cluster, sorted(partitions), committed)
        await self._tell("on_partitions_assigned", partitions)
        self._rebalancing = False
        self._changed.set()

    async def _tell(self, event: str, partitions: set[TopicPartition]) -> None:
        if not self._listener:
            return
        try:
            answer = getattr(self._listener, event)(partitions)
            if inspect.iscoroutine(answer):
                await answer
        except Exception:
            # As aiokafka does: the rebalance goes on.
            logger.exception("%s of %r failed", event, self._listener)

    def _subscribe(
        self,
        kind: str,
        topics: Iterable[str],
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        if self._kind not in (None, kind):
            raise IllegalStateError(
                "Subscription to topics, partitions and pattern are mutually exclusive"
            )
        self._kind, self._topics, self._listener = kind, frozenset(topics), listener

    async def _join(self) -> None:
        if self._group:
            await self._group.join(self)
            return
        self._assignment = Assignment(
            self._cluster, sorted(self._cluster.partitions_of(self._topics)), {}
        )
        self._changed.set()

    async def _joined(self) -> None:
        """Wait until the latest change of the subscription is in force; raises its error."""
        if self._joining:
            await asyncio.shield(self._joining)

    async def _settled(self) -> Assignment:
        """Return the assignment once no rebalance is under way."""
        self._check()
        # Let other tasks run: often nothing below waits.
        await asyncio.sleep(0)
        await self._joined()
        while True:
            self._check()
            if self._kind is None:
                raise IllegalStateError("Not subscribed to any topics or partitions")
            if self._assignment and not self._rebalancing:
                self._auto_commit_when_due()
                return self._assignment
            await self._change()

    async def _change(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for the next change."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    def _check(self) -> None:
        if self._stopped:
            raise ConsumerStoppedError
        if not self._started:
            raise IllegalStateError("The consumer was not started")

    def _assigned(self, partitions: Iterable[TopicPartition]) -> Assignment:
        """Return the assignment; IllegalStateError unless it has all of these partitions."""
        assignment = self._assignment
        if assignment is None:
            raise IllegalStateError("No partitions are assigned")
        assignment.check(partitions)
        return assignment

    def _of_group(self) -> Group:
        if self._group is None:
            raise IllegalOperation("Requires group_id")
        return self._group

    def _commit_time(self) -> float:
        interval_ms: int = self._settings["auto_commit_interval_ms"]
        return self.loop.time() + interval_ms / 1000

    def _auto_commit_when_due(self) -> None:
        if self.loop.time() >= self._next_commit:
            self._auto_commit(self._assignment)

    def _auto_commit(self, assignment: Assignment | None) -> None:
        self._next_commit = self._commit_time()
        if self._group and assignment and self._settings["enable_auto_commit"]:
            # aiokafka only logs it.
            with contextlib.suppress(CommitFailedError):
                self._group.commit(self, assignment.positions)


def _check_subscription(
    topics: Collection[str], pattern: str | None, listener: ConsumerRebalanceListener | None
) -> None:
    """Raise what aiokafka raises for impossible arguments of ``subscribe``."""
    if bool(topics) == bool(pattern):
        raise TypeError("You should provide either `topics` or `pattern`")
    if not isinstance(topics, (tuple, set, list)):
        raise TypeError("Topics should be list of strings")
    if listener is not None and not isinstance(listener, ConsumerRebalanceListener):
        raise TypeError("listener should be an instance of ConsumerRebalanceListener")

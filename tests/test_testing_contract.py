"""The consumer double and a consumer of a real broker behave alike: each test runs on both."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalOperation,
    IllegalStateError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndTimestamp
from support.copies import Content, content

from flowstream.messages import Message
from flowstream.testing.replayed import BrokerTopics, DoubleTopics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.testing import ReplayedTopics

pytestmark = pytest.mark.anyio

FIRST_MS = 1_600_000_000_000
MESSAGES = [
    Message("t", partition, offset, FIRST_MS + 10 * offset + partition, *rest)
    for partition, offset, *rest in (
        (0, 0, b"k", b"a", (("h", b"1"), ("h", None))),
        (0, 1, None, b"b"),
        (0, 2, b"k", b"", (), True),
        (2, 0, b"k", b"d"),
        (2, 1, b"k", b"e"),
    )
] + [Message("u", 0, 0, FIRST_MS + 7, b"k", b"f")]
ALL = {
    TopicPartition(topic, number): [
        (m.offset, content(m)) for m in MESSAGES if (m.topic, m.partition) == (topic, number)
    ]
    for topic, number in (("t", 0), ("t", 2), ("u", 0))
}
T0, T1, T2, U0 = (TopicPartition(*place) for place in (("t", 0), ("t", 1), ("t", 2), ("u", 0)))
OF_T = {place: ALL[place] for place in (T0, T2)}
# A broker tells members of a rebalance when they next report.
QUICK = {"heartbeat_interval_ms": 50}


@pytest.fixture(scope="module", params=["double", "broker"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., ReplayedTopics]]:
    """Make topics: a function of messages and numbers of partitions."""
    if request.param == "double":
        yield DoubleTopics
        return
    url = request.getfixturevalue("broker").url
    with BrokerTopics(url, MESSAGES, {"t": 3, "u": 1, "empty": 2}) as shared:

        def made(messages: list[Message], partitions: dict[str, int]) -> BrokerTopics:
            assert messages is MESSAGES
            assert partitions == {"t": 3, "u": 1, "empty": 2}
            # The topics do not change: only groups belong to a test.
            shared._suffix = f"{shared._suffix}x"
            return shared

        yield made


@pytest.fixture
def topics(make: Callable[..., ReplayedTopics]) -> ReplayedTopics:
    return make(MESSAGES, {"t": 3, "u": 1, "empty": 2})


def by_partition(records: list[Any]) -> dict[TopicPartition, list[tuple[int, Content]]]:
    found: dict[TopicPartition, list[tuple[int, Content]]] = {}
    for each in records:
        place = TopicPartition(each.topic, each.partition)
        row = Content(each.timestamp, each.key, each.value, each.headers)
        found.setdefault(place, []).append((each.offset, row))
    return found


async def read(consumer: Any, count: int) -> list[Any]:
    return [await consumer.getone() for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (only the broker knows when it happens)
            await asyncio.sleep(0.01)


# --- reading -----------------------------------------------------------------------------------


async def test_iteration_returns_every_message_of_every_topic_and_ends(topics):
    async with topics.consumer(*topics.names) as consumer:
        records = [record async for record in consumer]
        with pytest.raises(ConsumerStoppedError):
            await consumer.getone()
        assert await consumer.getmany(timeout_ms=10) == {}
    assert by_partition(records) == ALL
    sizes = {(r.serialized_key_size, r.serialized_value_size) for r in records}
    assert sizes == {(1, 1), (-1, 1), (1, -1)}
    assert {(r.timestamp_type, r.checksum) for r in records} == {(0, None)}


async def test_topics_of_the_constructor_are_read(topics):
    async with topics.consumer("u") as consumer:
        assert consumer.subscription() == {"u"}
        assert consumer.assignment() == {U0}
        assert by_partition([record async for record in consumer]) == {U0: ALL[U0]}


async def test_an_empty_topic_ends_at_once(topics):
    async with topics.consumer("empty") as consumer:
        assert consumer.assignment() == {TopicPartition("empty", n) for n in range(2)}
        assert [record async for record in consumer] == []


async def test_topics_are_read_from_the_beginning_whatever_is_set(topics):
    settings = {"auto_offset_reset": "latest", "bootstrap_servers": "x:1"}
    async with topics.consumer(*topics.names, security_protocol="SSL", **settings) as consumer:
        assert by_partition([record async for record in consumer]) == ALL


async def test_with_wait_reading_ends_when_the_consumer_is_stopped(topics):
    consumer = topics.consumer(*topics.names, wait=True)
    await consumer.start()
    records = []
    async with asyncio.TaskGroup() as tasks:
        async for record in consumer:
            records.append(record)
            if len(records) == len(MESSAGES):
                tasks.create_task(consumer.stop())
    assert by_partition(records) == ALL


async def test_getmany_that_waits_returns_nothing_when_the_consumer_is_stopped(topics):
    consumer = topics.consumer("empty")
    await consumer.start()
    waiting = asyncio.ensure_future(consumer.getmany(timeout_ms=60_000))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.1)
    await consumer.stop()
    assert await waiting == {}


async def test_a_pattern_that_no_topic_matches_reads_nothing(topics):
    consumer = topics.consumer()
    consumer.subscribe(pattern="x")
    async with consumer:
        assert [record async for record in consumer] == []
        assert consumer.subscription() == frozenset()


async def test_with_wait_getone_waits_at_the_end_until_a_seek(topics):
    async with topics.consumer("u", wait=True) as consumer:
        await consumer.getone()
        waiting = asyncio.ensure_future(consumer.getone())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        consumer.seek(U0, 0)
        assert (await waiting).value == b"f"


async def test_getone_reads_the_given_partitions_only(topics):
    async with topics.consumer("t") as consumer:
        values = {(await consumer.getone(T2)).value for _ in range(2)}
        assert values == {b"d", b"e"}
        with pytest.raises(ConsumerStoppedError):
            await consumer.getone(T2, T1)
        assert (await consumer.getone(T2, T0)).value == b"a"


@pytest.mark.parametrize("limit", ["max_records", "max_poll_records"])
async def test_getmany_returns_at_most_so_many(topics, limit):
    of_call, of_consumer = ({limit: 2}, {}) if limit == "max_records" else ({}, {limit: 2})
    async with topics.consumer(*topics.names, **of_consumer) as consumer:
        seen = []
        while len(seen) < len(MESSAGES):
            found = await consumer.getmany(timeout_ms=2_000, **of_call)
            assert 0 < sum(map(len, found.values())) <= 2
            for place, records in found.items():
                assert {TopicPartition(r.topic, r.partition) for r in records} == {place}
                seen += records
        assert by_partition(seen) == ALL


async def test_getmany_waits_as_long_as_it_is_told(topics):
    async with topics.consumer("empty") as consumer:
        begin = asyncio.get_running_loop().time()
        assert await consumer.getmany(timeout_ms=150) == {}
        assert asyncio.get_running_loop().time() - begin >= 0.14


async def test_impossible_limits_are_errors(topics):
    with pytest.raises(ValueError, match="max_poll_records"):
        topics.consumer("t", max_poll_records=0)
    async with topics.consumer("t") as consumer:
        with pytest.raises(ValueError, match="max_records"):
            await consumer.getmany(max_records=0)


async def test_deserializers_are_applied(topics):
    async with topics.consumer(
        "t", key_deserializer=repr, value_deserializer=lambda value: value and value.decode()
    ) as consumer:
        records = [record async for record in consumer]
    assert {record.key for record in records} == {"b'k'", "None"}
    assert sorted(str(record.value) for record in records) == ["None", "a", "b", "d", "e"]


async def test_a_record_that_cannot_be_deserialized_stays_next(topics):
    def fail(value):
        raise ValueError("no record")

    async with topics.consumer("u", value_deserializer=fail) as consumer:
        for _ in range(2):
            with pytest.raises(ValueError, match="no record"):
                await consumer.getone()
        assert await consumer.position(U0) == 0
        consumer.seek(U0, 1)
        assert [record async for record in consumer] == []


async def test_paused_partitions_are_not_read_until_they_are_resumed(topics):
    async with topics.consumer("t") as consumer:
        consumer.pause(T0, T1)
        assert consumer.paused() == {T0, T1}
        assert {(await consumer.getone()).value for _ in range(2)} == {b"d", b"e"}
        waiting = asyncio.ensure_future(consumer.getone())
        # There is more to read: this is not the end.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        consumer.resume(T0)
        assert (await waiting).value == b"a"
        assert consumer.paused() == {T1}
        with pytest.raises(IllegalStateError):
            consumer.pause(U0)
        with pytest.raises(IllegalStateError):
            consumer.resume(U0)


# --- positions ---------------------------------------------------------------------------------


async def test_seeks_and_positions(topics):
    async with topics.consumer("t") as consumer:
        await read(consumer, 5)
        assert [await consumer.position(place) for place in (T0, T1, T2)] == [3, 0, 2]
        consumer.seek(T0, 1)
        assert await consumer.position(T0) == 1
        assert (await consumer.getone(T0)).offset == 1
        assert await consumer.seek_to_beginning(T2)
        assert (await consumer.getone(T2)).offset == 0
        assert await consumer.seek_to_end()
        assert [await consumer.position(place) for place in (T0, T1, T2)] == [3, 0, 2]
        assert await consumer.seek_to_beginning()
        assert by_partition(await read(consumer, 5)) == OF_T


async def test_an_offset_out_of_range_leads_to_the_beginning(topics):
    async with topics.consumer("t") as consumer:
        consumer.seek(T2, 97)
        assert [(await consumer.getone(T2)).offset for _ in range(2)] == [0, 1]


async def test_impossible_seeks_are_errors(topics):
    async with topics.consumer("t") as consumer:
        for place in (U0, TopicPartition("other", 0)):
            with pytest.raises(IllegalStateError):
                consumer.seek(place, 0)
            with pytest.raises(IllegalStateError):
                await consumer.position(place)
            for seek in (consumer.seek_to_beginning, consumer.seek_to_end):
                with pytest.raises(IllegalStateError):
                    await seek(place)
        with pytest.raises(ValueError, match="positive"):
            consumer.seek(T0, -1)
        with pytest.raises(TypeError, match="TopicPartition"):
            await consumer.seek_to_end("t")


async def test_offsets_of_partitions_that_need_no_assignment(topics):
    async with topics.consumer("u") as consumer:
        assert await consumer.beginning_offsets([T0, T1]) == {T0: 0, T1: 0}
        assert await consumer.end_offsets([T0, T1, U0]) == {T0: 3, T1: 0, U0: 1}


async def test_offsets_for_times(topics):
    async with topics.consumer("u") as consumer:
        found = await consumer.offsets_for_times(
            {T0: FIRST_MS + 1, T2: 0, T1: 0, U0: FIRST_MS + 8}
        )
        assert found == {
            T0: OffsetAndTimestamp(1, FIRST_MS + 10),
            T2: OffsetAndTimestamp(0, FIRST_MS + 2),
            T1: None,
            U0: None,
        }
        with pytest.raises(ValueError, match="negative"):
            await consumer.offsets_for_times({T0: -1})


async def test_highwater_is_behind_the_last_record(topics):
    async with topics.consumer("t") as consumer:
        await read(consumer, 5)
        assert (consumer.highwater(T0), consumer.highwater(T2)) == (3, 2)


# --- subscription and assignment ---------------------------------------------------------------


async def test_assigned_partitions_alone_are_read(topics):
    consumer = topics.consumer()
    consumer.assign([T2])
    async with consumer:
        assert consumer.assignment() == {T2}
        assert by_partition([record async for record in consumer]) == {T2: ALL[T2]}
        consumer.assign([U0])
        assert by_partition([record async for record in consumer]) == {U0: ALL[U0]}


async def test_a_subscription_may_change_while_reading(topics):
    async with topics.consumer("t") as consumer:
        assert by_partition(await read(consumer, 5)) == OF_T
        consumer.subscribe(["u"])
        assert consumer.subscription() == {"u"}
        assert (await consumer.getone()).value == b"f"
        assert consumer.assignment() == {U0}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("group", [{}, {"group_id": "g"}])
async def test_a_pattern_matches_recorded_names(topics, when, group):
    consumer = topics.consumer(**group)
    if when == "before":
        consumer.subscribe(pattern="[tv]$")
    async with consumer:
        if when == "after":
            consumer.subscribe(pattern="[tv]$")
        assert by_partition(await read(consumer, 5)) == OF_T
        assert consumer.subscription() == {"t"}


async def test_subscriptions_of_two_kinds_exclude_each_other(topics):
    async with topics.consumer("t") as consumer:
        with pytest.raises(IllegalStateError):
            consumer.assign([T0])
        with pytest.raises(IllegalStateError):
            consumer.subscribe(pattern="t")
        consumer.unsubscribe()
        assert (consumer.subscription(), consumer.assignment()) == (frozenset(), set())
        consumer.assign([T0])
        with pytest.raises(IllegalStateError):
            consumer.subscribe(["t"])
        assert (await consumer.getone()).value == b"a"


async def test_impossible_subscriptions_are_errors(topics):
    async with topics.consumer("t") as consumer:
        for arguments in ({}, {"topics": ["t"], "pattern": "t"}, {"topics": "t"}):
            with pytest.raises(TypeError):
                consumer.subscribe(**arguments)
        with pytest.raises(TypeError, match="ConsumerRebalanceListener"):
            consumer.subscribe(["t"], listener=print)
    consumer = topics.consumer()
    with pytest.raises(ValueError, match="not a valid pattern"):
        consumer.subscribe(pattern="(")
    await consumer.stop()


async def test_metadata_know_the_topics_of_the_test_only(topics):
    async with topics.consumer("t") as consumer:
        assert await consumer.topics() == {"t", "u", "empty"}
        assert consumer.partitions_for_topic("t") == {0, 1, 2}
        assert consumer.partitions_for_topic("other") is None


async def test_names_of_the_broker_are_understood_too(topics):
    place = TopicPartition(topics.names["t"], 0)
    async with topics.consumer(topics.topic) as consumer:
        assert consumer.subscription() == {"t"}
        assert await consumer.position(place) == 0
        await consumer.seek_to_end(place)
        assert await consumer.position(place) == 3
        assert await consumer.end_offsets([place]) == {T0: 3}
        assert by_partition([record async for record in consumer]) == {T2: ALL[T2]}


# --- groups and commits ------------------------------------------------------------------------


async def test_a_group_goes_on_where_it_committed(topics):
    async with topics.consumer("t", group_id="g") as consumer:
        assert by_partition([record async for record in consumer]) == OF_T
        await consumer.commit()
    async with topics.consumer("t", group_id="g") as consumer:
        assert [record async for record in consumer] == []
    async with topics.consumer("t", group_id="other") as consumer:
        assert by_partition([record async for record in consumer]) == OF_T


async def test_without_auto_commit_uncommitted_records_come_again(topics):
    settings = {"group_id": "g", "enable_auto_commit": False}
    async with topics.consumer("u", **settings) as consumer:
        await consumer.getone()
        assert await consumer.committed(U0) is None
    async with topics.consumer("u", **settings) as consumer:
        assert (await consumer.getone()).value == b"f"


async def test_stop_commits_automatically(topics):
    async with topics.consumer("u", group_id="g") as consumer:
        await consumer.getone()
    async with topics.consumer("u", group_id="g") as consumer:
        assert await consumer.committed(U0) == 1
        assert [record async for record in consumer] == []


async def test_positions_are_committed_automatically_after_the_interval(topics):
    async with topics.consumer("u", group_id="g", auto_commit_interval_ms=50) as consumer:
        await consumer.getone()
        async with asyncio.timeout(60):
            while await consumer.committed(U0) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_offsets_may_be_committed_and_sought(topics):
    async with topics.consumer("t", group_id="g", enable_auto_commit=False) as consumer:
        await read(consumer, 5)
        await consumer.commit({T0: 1})
        await consumer.commit({T2: (1, "a note")})
        assert [await consumer.committed(place) for place in (T0, T1, T2)] == [1, None, 1]
        assert await consumer.seek_to_committed() == {T0: 1, T1: None, T2: 1}
        assert (await consumer.getone(T0)).offset == 1
        assert await consumer.seek_to_committed(T2) == {T2: 1}
        assert await consumer.position(T2) == 1
        with pytest.raises(IllegalStateError):
            await consumer.commit({U0: 1})
        with pytest.raises(IllegalStateError):
            await consumer.seek_to_committed(U0)
        for offsets in ({}, {T0: "x"}):
            with pytest.raises(ValueError):
                await consumer.commit(offsets)


async def test_assigned_partitions_begin_where_the_group_committed(topics):
    async with topics.consumer("t", group_id="g", enable_auto_commit=False) as consumer:
        await consumer.commit({T0: 2})
    consumer = topics.consumer(group_id="g")
    consumer.assign([T0])
    async with consumer:
        assert (await consumer.getone()).offset == 2


async def test_assigned_partitions_are_not_committed_beside_members(topics):
    async with topics.consumer("t", group_id="g"):
        consumer = topics.consumer(group_id="g")
        consumer.assign([T0])
        async with consumer:
            with pytest.raises(CommitFailedError):
                await consumer.commit({T0: 1})


async def test_a_committed_offset_out_of_range_leads_to_the_beginning(topics):
    settings = {"group_id": "g", "enable_auto_commit": False}
    async with topics.consumer("u", **settings) as consumer:
        await consumer.commit({U0: 97})
    async with topics.consumer("u", **settings) as consumer:
        assert (await consumer.getone()).value == b"f"


async def test_commits_need_a_group(topics):
    async with topics.consumer("t") as consumer:
        for call in (consumer.commit(), consumer.committed(T0), consumer.seek_to_committed()):
            with pytest.raises(IllegalOperation):
                await call


async def test_members_of_a_group_share_partitions(topics):
    async with AsyncExitStack() as stack:
        first = topics.consumer("t", group_id="g", **QUICK)
        await stack.enter_async_context(first)
        assert first.assignment() == {T0, T1, T2}
        second = topics.consumer("t", group_id="g", **QUICK)
        await second.start()
        await until(lambda: len(first.assignment()) < 3)
        shares = [first.assignment(), second.assignment()]
        assert sorted(map(len, shares)) == [1, 2]
        assert set.union(*map(set, shares)) == {T0, T1, T2}
        both = await asyncio.gather(*(everything(each) for each in (first, second)))
        assert {place for records in both for place in by_partition(records)} == {T0, T2}
        assert by_partition(both[0] + both[1]) == OF_T
        for records, share in zip(both, shares, strict=True):
            assert by_partition(records).keys() <= share
        await second.stop()
        await until(lambda: first.assignment() == {T0, T1, T2})
        # What the other had read was committed when it left.
        assert await everything(first) == []


async def everything(consumer: Any) -> list[Any]:
    return [record async for record in consumer]


async def test_assignors_are_those_of_aiokafka(topics):
    settings = {"partition_assignment_strategy": [RangePartitionAssignor], **QUICK}
    async with (
        topics.consumer("u", "empty", group_id="g", **settings) as first,
        topics.consumer("u", "empty", group_id="g", **settings) as second,
    ):
        await until(lambda: len(first.assignment()) + len(second.assignment()) == 3)
        shares = [first.assignment(), second.assignment()]
        assert {U0, TopicPartition("empty", 0)} in shares
        assert {TopicPartition("empty", 1)} in shares


async def test_a_member_without_a_share_ends_at_once(topics):
    async with (
        topics.consumer("u", group_id="g", **QUICK) as first,
        topics.consumer("u", group_id="g", **QUICK) as second,
    ):
        await until(lambda: len(first.assignment()) + len(second.assignment()) == 1)
        both = await asyncio.gather(everything(first), everything(second))
        assert sorted(map(len, both)) == [0, 1]


class Calls(ConsumerRebalanceListener):
    def __init__(self, then: Callable[[str], Any] = lambda _: None) -> None:
        self.calls: list[tuple[str, set[TopicPartition]]] = []
        self.then = then

    def on_partitions_revoked(self, revoked):
        self.calls.append(("revoked", set(revoked)))

    async def on_partitions_assigned(self, assigned):
        self.calls.append(("assigned", set(assigned)))
        self.then(assigned)


async def test_a_listener_is_called_before_and_after_each_rebalance(topics):
    heard = Calls()
    first = topics.consumer(group_id="g", **QUICK)
    first.subscribe(["t"], listener=heard)
    async with first:
        await until(lambda: len(heard.calls) == 2)
        assert heard.calls == [("revoked", set()), ("assigned", {T0, T1, T2})]
        async with topics.consumer("t", group_id="g", **QUICK):
            await until(lambda: len(heard.calls) == 4)
            assert heard.calls[2:] == [
                ("revoked", {T0, T1, T2}),
                ("assigned", set(first.assignment())),
            ]
            share = set(first.assignment())
        await until(lambda: len(heard.calls) == 6)
        assert heard.calls[4:] == [("revoked", share), ("assigned", {T0, T1, T2})]
    # Not at the end.
    assert len(heard.calls) == 6


async def test_a_new_subscription_of_a_member_is_a_rebalance(topics):
    heard = Calls()
    async with topics.consumer("u", group_id="g") as consumer:
        await consumer.getone()
        consumer.subscribe(["t"], listener=heard)
        assert consumer.assignment() == set()
        assert by_partition(await read(consumer, 5)) == OF_T
        assert heard.calls == [("revoked", {U0}), ("assigned", {T0, T1, T2})]
        assert await consumer.committed(U0) == 1


async def test_a_listener_may_seek(topics):
    consumer = topics.consumer(group_id="g")
    consumer.subscribe(["t"], listener=Calls(lambda _: consumer.seek(T0, 2)))
    async with consumer:
        assert (await consumer.getone(T0)).offset == 2


async def test_a_listener_that_fails_does_not_stop_the_rebalance(topics):
    def fail(_):
        raise RuntimeError("a fault of the listener")

    heard = Calls(fail)
    consumer = topics.consumer(group_id="g")
    consumer.subscribe(["t"], listener=heard)
    async with consumer:
        assert by_partition(await read(consumer, 5)) == OF_T
    assert len(heard.calls) == 2


async def test_without_a_group_no_listener_is_called(topics):
    heard = Calls()
    consumer = topics.consumer()
    consumer.subscribe(["t"], listener=heard)
    async with consumer:
        assert by_partition(await read(consumer, 5)) == OF_T
    assert heard.calls == []


# --- refusals and life -------------------------------------------------------------------------


async def test_reading_needs_a_start_and_a_subscription(topics):
    consumer = topics.consumer("t")
    for call in (consumer.getone(), consumer.getmany()):
        with pytest.raises(IllegalStateError, match="not started"):
            await call
    async with consumer:
        consumer.unsubscribe()
        for call in (consumer.getone(), consumer.getmany()):
            with pytest.raises(IllegalStateError, match="Not subscribed"):
                await call
        # aiokafka never stops if it is to stop before it has taken note of the end.
        await consumer.topics()
    with pytest.raises(ConsumerStoppedError):
        await consumer.getone()


async def test_topics_that_the_test_does_not_replay_are_errors(topics):
    consumer = topics.consumer("t", "other")
    with pytest.raises(UnknownTopicOrPartitionError, match="does not replay other, only"):
        await consumer.start()
    await consumer.stop()
    missing = TopicPartition("other", 0)
    async with topics.consumer("t", group_id="g") as consumer:
        with pytest.raises(UnknownTopicOrPartitionError, match="other"):
            consumer.subscribe(["t", "other"])
        for call in (
            consumer.beginning_offsets([missing]),
            consumer.end_offsets([TopicPartition("t", 3)]),
            consumer.offsets_for_times({missing: 0}),
            consumer.committed(missing),
        ):
            with pytest.raises(UnknownTopicOrPartitionError, match=r"partition [03]"):
                await call
    consumer = topics.consumer()
    for place in (missing, TopicPartition("t", 3)):
        with pytest.raises(UnknownTopicOrPartitionError, match=r"partition [03]"):
            consumer.assign([place])
    await consumer.stop()


async def test_a_stopped_consumer_reads_no_more(topics):
    consumer = topics.consumer("t")
    await consumer.start()
    with pytest.raises(AssertionError):
        await consumer.start()
    await consumer.stop()
    await consumer.stop()
    for call in (consumer.getone(), consumer.getmany()):
        with pytest.raises(ConsumerStoppedError):
            await call
    with pytest.raises(ConsumerStoppedError):
        aiter(consumer)


async def test_unknown_settings_are_errors(topics):
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        topics.consumer("t", nonsense=1)


def test_a_consumer_is_made_within_an_event_loop(topics):
    # In the main thread asyncio would make a loop that nobody closes.
    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError):
        executor.submit(topics.consumer, "t").result()


async def test_both_have_every_method_or_refuse_it(topics):
    consumer = topics.consumer("t")
    for name in dir(AIOKafkaConsumer):
        if name in ("last_stable_offset", "last_poll_timestamp") and not isinstance(
            consumer, AIOKafkaConsumer
        ):
            with pytest.raises(NotImplementedError, match=f"has no {name}: run this test with a"):
                getattr(consumer, name)
        elif not name.startswith("_"):
            assert callable(getattr(consumer, name))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = consumer.nonsense
    await consumer.stop()

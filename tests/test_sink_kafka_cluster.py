"""The Kafka sink and a cluster in trouble: leaders away, requests refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog.testing
from support.mock_cluster import INIT_PRODUCER_ID, METADATA, PRODUCE, MockCluster
from support.outcomes import Account, eventually, make_batch, number

from flowstream.errors import SinkError
from flowstream.kafka import refusals
from flowstream.kafka.limits import Limits
from flowstream.kafka.sink import KafkaSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    """Two brokers with a topic "t" of two partitions."""
    with MockCluster(2) as brokers:
        brokers.create_topic("t", 2)
        yield brokers


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
async def sink(cluster: MockCluster, account: Account) -> AsyncIterator[KafkaSink]:
    """A sink that has published a record to each partition."""
    one = KafkaSink(cluster.settings, account, partitions=2, limits=Limits(stuck_timeout=30))
    await one.start(["t"])
    for partition in (0, 1):
        await one.send(make_batch("t", partition, partition, 1))
    await one.flush(60)
    yield one
    await one.close(0)


async def test_without_a_leader_metadata_is_asked_for_a_few_times_a_second(
    cluster: MockCluster, account: Account, sink: KafkaSink
) -> None:
    cluster.set_leader("t", 0, None)
    # Long enough that what is free at the start is free again.
    await anyio.sleep(5.1)
    before, begin = cluster.requests(), anyio.current_time()
    await sink.send(make_batch("t", 0, 2, 101))
    sent, asked = 0, Counter[int]()
    # The other partition goes on: a request for every few batches.
    while asked[PRODUCE] <= 40 or asked[METADATA] < 3 or anyio.current_time() < begin + 4:
        await sink.send(make_batch("t", 1, 1000 + sent, 7))
        sent += 7
        await anyio.sleep(0.01)
        asked = cluster.requests() - before
    # aiokafka's own sender asks 7,000 times a second.
    assert asked[METADATA] <= 4 * (anyio.current_time() - begin)
    await eventually(lambda: account.settled == 2 + sent)
    cluster.set_leader("t", 0, 2)
    await eventually(lambda: account.settled == 2 + sent + 101)
    assert not account.causes
    assert not account.doubts


# The codes are those of Errors.java.
@pytest.mark.parametrize(
    ("api", "code"),
    [
        (PRODUCE, 5),  # LEADER_NOT_AVAILABLE
        (PRODUCE, 6),  # NOT_LEADER_OR_FOLLOWER
        (PRODUCE, 7),  # REQUEST_TIMED_OUT
        (PRODUCE, 19),  # NOT_ENOUGH_REPLICAS
        (PRODUCE, 20),  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
        (PRODUCE, 56),  # KAFKA_STORAGE_ERROR
    ],
)
async def test_passing_errors_are_retried_by_the_same_producer_less_and_less_often(
    cluster: MockCluster, account: Account, sink: KafkaSink, api: int, code: int
) -> None:
    before = cluster.requests()
    cluster.answer(api, [code] * 4)
    with structlog.testing.capture_logs() as logs:
        begin = anyio.current_time()
        await sink.send(make_batch("t", 0, 2, 101))
        await eventually(lambda: account.settled == 103)
        took = anyio.current_time() - begin
    assert len(account.acknowledged_values) == 103
    assert logs == []
    asked = cluster.requests() - before
    assert asked[PRODUCE] == 5
    assert asked[INIT_PRODUCER_ID] == 0
    # The pauses are 0.1, 0.2, 0.4 and 0.8 s, each shortened by up to a half.
    assert took > 0.75


@pytest.mark.parametrize("code", [14, 15, 16])  # COORDINATOR_{LOAD_IN_PROGRESS,NOT_AVAILABLE}, …
async def test_a_start_waits_for_the_coordinator(
    cluster: MockCluster, account: Account, code: int
) -> None:
    cluster.answer(INIT_PRODUCER_ID, [code] * 3)
    sink = KafkaSink(cluster.settings, account, partitions=2)
    await sink.start(["t"])
    await sink.send(make_batch("t", 0, 0, 101))
    await sink.flush(60)
    assert len(account.acknowledged_values) == 101
    assert cluster.requests()[INIT_PRODUCER_ID] == 4
    await sink.close(1)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (29, "not_authorised"),  # TOPIC_AUTHORIZATION_FAILED
        (31, "not_authorised"),  # CLUSTER_AUTHORIZATION_FAILED
        (21, "unsupported_format"),  # INVALID_REQUIRED_ACKS
        (35, "unsupported_format"),  # UNSUPPORTED_VERSION
        (42, "unsupported_format"),  # INVALID_REQUEST
        (43, "unsupported_format"),  # UNSUPPORTED_FOR_MESSAGE_FORMAT
        (76, "unsupported_format"),  # UNSUPPORTED_COMPRESSION_TYPE
    ],
)
async def test_a_topic_that_refuses_everything_is_tried_again_now_and_then(
    cluster: MockCluster, account: Account, sink: KafkaSink, monkeypatch, code: int, cause: str
) -> None:
    # Longer than a busy machine lets the next record wait.
    monkeypatch.setattr(refusals, "_CLOSED", (4.0, 4.0))
    before = cluster.requests()
    cluster.answer(PRODUCE, [code])
    with structlog.testing.capture_logs() as logs:
        await sink.send(make_batch("t", 0, 2, 101))
        await eventually(lambda: account.settled == 103)
        assert account.causes == {cause: 101}
        sent = 0
        while account.causes.total() == 101 + sent:
            sent += 1
            await sink.send(make_batch("t", 1, 1000 + sent, 1))
            await eventually(lambda: account.settled == 103 + sent)  # noqa: B023
    assert not account.doubts
    # One was refused, those while the topic was closed were not sent, the last one was.
    assert sent > 1
    asked = cluster.requests() - before
    assert asked[PRODUCE] == 2
    assert asked[INIT_PRODUCER_ID] == 0
    assert {each["event"] for each in logs} == {"kafka_records_failed"}
    assert all(each["remedy"] for each in logs)


async def test_a_batch_against_a_policy_fails_alone(
    cluster: MockCluster, account: Account, sink: KafkaSink
) -> None:
    cluster.answer(PRODUCE, [44])
    await sink.send(make_batch("t", 0, 2, 101))
    await eventually(lambda: account.settled == 103)
    await sink.send(make_batch("t", 0, 103, 101))
    await sink.flush(60)
    assert account.causes == {"policy_violation": 101}
    assert len(account.acknowledged_values) == 103
    assert cluster.requests()[INIT_PRODUCER_ID] == 1


async def test_an_invalid_record_fails_alone(
    cluster: MockCluster, account: Account, sink: KafkaSink
) -> None:
    """As with records that are too large, halves find it: here the last one of eight."""
    # 8, then 4 are refused, 4 are taken, and so on.
    cluster.answer(PRODUCE, [87, 87, 87, 87])
    await sink.send(make_batch("t", 0, 2, 8))
    await eventually(lambda: account.settled == 10)
    assert account.causes == {"invalid_record": 1}
    assert list(map(number, account.failed_values)) == [2]
    assert cluster.requests()[INIT_PRODUCER_ID] == 1


@pytest.mark.parametrize(
    "code",
    [
        2,  # CORRUPT_MESSAGE
        45,  # OUT_OF_ORDER_SEQUENCE_NUMBER
        47,  # INVALID_PRODUCER_EPOCH
        48,  # INVALID_TXN_STATE
        49,  # INVALID_PRODUCER_ID_MAPPING
        59,  # UNKNOWN_PRODUCER_ID
        90,  # PRODUCER_FENCED
        -1,  # UNKNOWN_SERVER_ERROR
        9999,
    ],
)
async def test_what_another_producer_cures_is_published_by_it(
    cluster: MockCluster, account: Account, sink: KafkaSink, code: int
) -> None:
    cluster.answer(PRODUCE, [code])
    with structlog.testing.capture_logs() as logs:
        await sink.send(make_batch("t", 0, 2, 101))
        await eventually(lambda: account.settled == 103)
    assert len(account.acknowledged_values) == 103
    assert cluster.requests()[INIT_PRODUCER_ID] == 2
    assert [each["event"] for each in logs] == ["kafka_producer_given_up"]


async def test_a_batch_that_was_repeated_and_then_refused_is_in_doubt(
    cluster: MockCluster, account: Account, sink: KafkaSink
) -> None:
    """Its sequence numbers may be used: the next batch gets another producer's."""
    # REQUEST_TIMED_OUT: the broker may have written it.
    cluster.answer(PRODUCE, [7, 44])
    await sink.send(make_batch("t", 0, 2, 101))
    await eventually(lambda: account.settled == 103)
    assert account.doubts == {"policy_violation": 101}
    await sink.send(make_batch("t", 0, 103, 101))
    await eventually(lambda: account.settled == 204)
    assert len(account.acknowledged_values) == 103
    assert cluster.requests()[INIT_PRODUCER_ID] == 2


async def test_brokers_without_producer_ids_are_named(cluster: MockCluster) -> None:
    cluster.unsupported(INIT_PRODUCER_ID)
    sink = KafkaSink(cluster.settings, Account(), partitions=2)
    with pytest.raises(SinkError, match=r"brokers are too old.*InitProducerId.*use Kafka 0\.11"):
        await sink.start(["t"])
    await sink.close(0)


@pytest.mark.parametrize("task", ["_sender_routine", "_md_synchronizer"])
async def test_a_task_of_aiokafka_that_has_ended_is_noticed(
    cluster: MockCluster, account: Account, sink: KafkaSink, task: str
) -> None:
    # An admin client that looks at the topics' settings may have one too.
    for each in [each for each in asyncio.all_tasks() if task in repr(each.get_coro())]:
        each.cancel()
    with structlog.testing.capture_logs() as logs:
        await eventually(lambda: cluster.requests()[INIT_PRODUCER_ID] == 2)
    assert [each["event"] for each in logs] == ["kafka_producer_given_up"]
    await sink.send(make_batch("t", 0, 2, 101))
    await sink.flush(60)
    assert len(account.acknowledged_values) == 103

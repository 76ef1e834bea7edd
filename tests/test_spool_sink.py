"""The Kafka sink with a spool: where records go, how the spool drains, and the books."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.mock_cluster import MockCluster
from support.outcomes import eventually, new_topic
from support.published import Published
from support.spooling_sink import EARLIER, LATER, Rig, numbers_in
from support.spools import KEYS, amounts

from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.records import CountersRecord, Loss, SpoolCounts, decode
from flowstream.source import open_source
from flowstream.spool.pace import LARGEST
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker import Broker

pytestmark = pytest.mark.anyio

NOWHERE = ClientSettings(("127.0.0.1:9",))
SIZE = 203 + 8
"""Octets of a record's key and value."""


async def left_behind(directory: Path, topic: str, records: int, partitions: int = 1) -> None:
    """Leave so many records in a spool, as a run without a broker does."""
    rig = Rig(NOWHERE, topic, directory, epoch=EARLIER, partitions=partitions)
    async with rig.running() as sink:
        for n in range(records // 1_000):
            await sink.send(rig.batch(1_000 * n, 1_000, n % partitions))
        await sink.flush(10)
        assert (rig.waiting, rig.acknowledged) == (records, 0)


def delete_segments(directory: Path) -> None:
    for file in directory.glob("*-*/*"):
        file.unlink()


def note_counters(rig: Rig, topic: str) -> None:
    """Note counters that say what waits in the spool."""
    for seq, key in enumerate(KEYS):
        record = msgspec.structs.replace(
            Published().counters[1],
            agent_epoch=EARLIER,
            seq=seq,
            if_index=key.if_index,
            flow_direction=key.flow_direction,
            spool=SpoolCounts(*rig.ledger.account(key).spool, 0, 0),
        )
        rig.sink.note_counters(record, topic)


async def counters_in(broker: Broker, topic: str) -> list[CountersRecord]:
    source = open_source(broker.url, [topic])
    records = [decode(m.value) async for batch in source.batches() for m in batch]
    return [record for record in records if isinstance(record, CountersRecord)]


async def test_live_records_pass_those_that_wait(broker: Broker, tmp_path: Path) -> None:
    topic, many = new_topic(), 300_000
    await left_behind(tmp_path, topic, many)
    rig = Rig(broker.cluster, topic, tmp_path)
    async with rig.running() as sink:
        await eventually(lambda: rig.spool.records < many - 10_000)
        before = many - rig.spool.records
        await sink.send(rig.batch(many, 101))
        await eventually(lambda: rig.acknowledged == 101)
        await eventually(lambda: rig.spool.records == 0)
    numbers = await numbers_in(broker, topic)
    assert sorted(numbers) == list(range(many + 101))
    # They stand behind those that were on their way when they came, and no others.
    place = numbers.index(many)
    assert numbers[place : place + 101] == list(range(many, many + 101))
    assert before <= place <= before + 2 * LARGEST // SIZE < many / 2


async def test_a_partition_without_a_leader_holds_up_no_other(tmp_path: Path) -> None:
    topic, many = new_topic(), 40_000
    await left_behind(tmp_path, topic, many, partitions=2)
    limits = Limits(delivery_timeout=1, request_timeout=1, stuck_timeout=1)
    with MockCluster(2) as cluster:
        cluster.create_topic(topic, 2)
        cluster.set_leader(topic, 0, None)
        cluster.set_leader(topic, 1, 2)
        rig = Rig(cluster.settings, topic, tmp_path, limits=limits, partitions=2)
        async with rig.running() as sink:
            await eventually(lambda: rig.spool.records == many / 2)
            # Live records of the partition wait there, too, those of the other do not.
            await sink.send(rig.batch(many, 101, 0))
            await sink.send(rig.batch(many + 101, 103, 1))
            await eventually(lambda: rig.acknowledged == 103)
            await eventually(lambda: rig.waiting == 101)
            cluster.set_leader(topic, 0, 1)
            await eventually(lambda: rig.acknowledged == 204)
            await eventually(lambda: rig.spool.records == 0)
            assert rig.waiting == 0


async def test_an_unanswering_cluster_is_given_memory_first_then_the_disk(
    broker_factory: Callable[..., Broker], tmp_path: Path
) -> None:
    broker, topic = broker_factory(), new_topic()
    batches = 20
    limits = Limits(in_flight_bytes=batches * 1_000 * (SIZE + 24), answer_timeout=60)
    rig = Rig(broker.cluster, topic, tmp_path, limits=limits)
    async with rig.running() as sink:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            for n in range(batches):
                await sink.send(rig.batch(1_000 * n, 1_000))
            # Half of the memory.
            await eventually(lambda: rig.waiting == batches * 500)
            assert rig.acknowledged == 0
            # Announcements do not wait behind the flows that were spooled.
            announced = dataclasses.replace(rig.batch(0, 1_000), stream=Stream.NEW_FLOWS)
            await sink.send(announced)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await eventually(lambda: rig.acknowledged == batches * 1_000)
        await eventually(lambda: rig.spool.records == 0)
    stages = [account.new_flows for account in rig.ledger.accounts().values()]
    assert sum(stage.acknowledged for stage in stages) == 1_000
    assert sum(stage.spooled for stage in stages) == 0
    expected = sorted([*range(1_000), *range(batches * 1_000)])
    assert sorted(await numbers_in(broker, topic)) == expected


async def test_what_the_cluster_refuses_of_an_earlier_run_is_in_its_counters(
    broker: Broker, tmp_path: Path
) -> None:
    topic, counters = new_topic(), f"{new_topic()}.counters"
    first = Rig(NOWHERE, topic, tmp_path, epoch=EARLIER)
    async with first.running() as sink:
        await sink.send(first.batch(0, 101))
        await sink.send(first.batch(101, 1, size=20_000))
        await sink.send(first.batch(102, 101))
        await sink.flush(10)
        note_counters(first, counters)
    rig = Rig(broker.cluster, topic, tmp_path, topic_settings={"max.message.bytes": "10000"})
    async with rig.running():
        await eventually(lambda: rig.spool.records == 0)
        # The amended record goes through the spool.
        await eventually(lambda: rig.sink.spool_state.octets == 0 and not rig.spool.runs)
    assert sorted(await numbers_in(broker, topic)) == [n for n in range(203) if n != 101]
    (amended,) = await counters_in(broker, counters)
    # Record 101 has 101 % 7 + 1 packets, and is of the second attachment.
    lost = Loss(1, 4, 4 * 61)
    assert (amended.agent_epoch, amended.seq, amended.if_index) == (EARLIER, 2, KEYS[1].if_index)
    assert amended.losses["message_too_large"] == lost
    assert amended.spool.records == first.ledger.account(KEYS[1]).spool.records - 1


async def test_what_was_deleted_before_a_run_came_to_it_is_in_the_counters(
    broker: Broker, tmp_path: Path
) -> None:
    topic, counters = new_topic(), f"{new_topic()}.counters"
    first = Rig(NOWHERE, topic, tmp_path, epoch=EARLIER)
    async with first.running() as sink:
        await sink.send(first.batch(0, 1_009))
        await sink.flush(10)
        note_counters(first, counters)
    # The cluster does not answer this run, so that it reads nothing.
    second = Rig(NOWHERE, topic, tmp_path, epoch=LATER)
    async with second.running():
        delete_segments(tmp_path)
    rig = Rig(broker.cluster, topic, tmp_path, epoch=LATER + 1_024)
    async with rig.running():
        await eventually(lambda: EARLIER not in rig.spool.runs)
    amended = {record.if_index: record for record in await counters_in(broker, counters)}
    lost = amounts(range(1_009))
    assert {key.if_index: Loss(*lost[key]) for key in KEYS} == {
        if_index: record.losses["spool_damaged"] for if_index, record in amended.items()
    }
    assert [record.spool.records for record in amended.values()] == [0, 0]

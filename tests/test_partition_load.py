"""Flows whose addresses and ports somebody has chosen so that all meet in one partition."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from support.outcomes import new_topic
from support.records import random_flows

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.identity import Identity
from flowstream.accounting.run import Run
from flowstream.encode import make_encoder, partition_keys, partitions
from flowstream.kafka.sink import KafkaSink
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.pipeline.publisher import Publisher, RecordBatch
from flowstream.source import open_source
from flowstream.streams import Stream

IF_INDEX = 3
PARTITIONS = 12
WANTED = 7
RECORDS = 50_021
EPOCH = 1_763_800_000_000_000_000 // 1024 * 1024

pytestmark = pytest.mark.anyio


def chosen_flows() -> np.ndarray:
    """Flows of one partition, found as anyone finds them who knows the formula."""
    tries = np.tile(np.array(random_flows(997), FLOW_RECORD), 2 * PARTITIONS * RECORDS // 997)
    numbers = np.arange(len(tries))
    tries["src_port"], tries["dst_port"] = numbers % 65_536, numbers // 65_536
    tries["if_index"], tries["time_received_ns"] = IF_INDEX, time.time_ns()
    return tries[partitions(partition_keys(tries), PARTITIONS) == WANTED][:RECORDS]


async def test_one_partition_takes_the_load_of_all(broker):
    prefix = new_topic()
    run = Run(Identity(EPOCH, bytes(16), "host-a", bytes(16), {IF_INDEX: "eth0"}))
    sink = KafkaSink(broker.cluster, run.ledger, partitions=PARTITIONS)
    await sink.start([f"{prefix}.{stream}" for stream in Stream])
    publisher = Publisher(sink, make_encoder("msgpack", run.identity), run, prefix)
    publishing = asyncio.ensure_future(publisher.run(pytest.fail))
    records = chosen_flows()
    assert len(records) == RECORDS
    for start in range(0, RECORDS, 8_192):
        await publisher.put(RecordBatch(Stream.FLOWS, records[start : start + 8_192]))
    await publisher.finish()
    await publishing
    await sink.close(60)
    flows = run.ledger.account(AttachmentKey(IF_INDEX)).flows
    assert (flows.acknowledged, flows.failed) == (RECORDS, 0)
    sizes = await open_source(broker.url, [f"{prefix}.flows"]).sizes()
    expected = [RECORDS if partition == WANTED else 0 for partition in range(PARTITIONS)]
    assert sizes == {f"{prefix}.flows": expected}

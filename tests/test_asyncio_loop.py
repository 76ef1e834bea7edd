"""One round trip on asyncio's own event loop; every other async test runs on uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.outcomes import Account, make_batch

from flowstream.sink import open_sink
from flowstream.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from broker import Broker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def round_trip(url: str, topic: str) -> None:
    """Send two batches and read them back, in order and acknowledged."""
    account = Account()
    sink = open_sink(url, account, partitions=3, record_format="msgpack")
    await sink.start([topic])
    first, second = make_batch(topic, 1, 0, 1009), make_batch(topic, 1, 1009, 13)
    await sink.send(first)
    await sink.send(second)
    await sink.close(60)
    assert len(account.acknowledged_values) == account.settled == 1022
    read = [m.value async for batch in open_source(url, [topic]).batches() for m in batch]
    assert read == [*first.values, *second.values]


@pytest.mark.anyio
async def test_recording_on_asyncios_own_loop(tmp_path: Path) -> None:
    assert type(asyncio.get_running_loop()).__module__ == "asyncio.unix_events"
    await round_trip(f"file:{tmp_path}", "t")


@pytest.mark.anyio
async def test_broker_on_asyncios_own_loop(broker: Broker) -> None:
    await round_trip(broker.url, "asyncio_loop")

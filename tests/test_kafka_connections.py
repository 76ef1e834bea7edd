"""No connection of a client that was given up stays open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.line import Line, line, listen
from support.outcomes import eventually

from flowstream.kafka.client import new_producer
from flowstream.kafka.settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker

pytestmark = pytest.mark.anyio


def is_idle(relay: Line) -> bool:
    """Report whether nobody is connected to the line."""
    return not relay._connections


async def test_a_start_that_is_cancelled_between_two_answers(broker: Broker) -> None:
    with listen() as listener:
        settings = ClientSettings((f"127.0.0.1:{listener.getsockname()[1]}",))
        async with line(listener, broker.port) as relay:
            # The versions of the interface are answered, the request for metadata is not.
            relay.mute_after = 1
            producer = new_producer(settings)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await producer.start()
            held = producer.client
            await producer.stop()
            await eventually(lambda: is_idle(relay))
            assert held._conns == {}


async def test_a_connection_that_is_ready_after_its_client_was_closed(
    broker_factory: Callable[..., Broker],
) -> None:
    with listen() as listener:
        port = listener.getsockname()[1]
        broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})
        async with line(listener, broker.port) as relay:
            producer = new_producer(ClientSettings((f"127.0.0.1:{port}",)))
            client = producer.client
            await client.bootstrap()
            relay.late_s = 0.5
            (node,) = (each.nodeId for each in client.cluster.brokers())
            connecting = asyncio.create_task(client._get_conn(node))
            await asyncio.sleep(0.1)
            await client.close()
            assert (connection := await connecting) is not None
            assert not connection.connected()
            await eventually(lambda: is_idle(relay))
            await producer.stop()

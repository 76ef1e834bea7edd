"""Closes the connections that aiokafka leaves open when a client is given up.

aiokafka leaves them to the garbage collector, which may come late. Two have no owner: the
first connection of a client whose start is cancelled, and one that is made while the
client is closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiokafka.client

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.conn import AIOKafkaConnection

_create_conn = aiokafka.client.create_conn


async def _create(*arguments: Any, on_close: Any = None, **options: Any) -> AIOKafkaConnection:
    connection = await _create_conn(*arguments, on_close=on_close, **options)
    if on_close is None:
        _close_once_cancelled(connection)
    return connection


def _close_once_cancelled(first: AIOKafkaConnection) -> None:
    """Close a client's first connection when its start is cancelled: nobody else knows it."""
    send = first.send

    async def watched(*arguments: Any, **options: Any) -> object:
        try:
            return await send(*arguments, **options)
        except asyncio.CancelledError:
            first.close()
            raise

    first.send = watched


aiokafka.client.create_conn = _create


def close_late_connections(client: AIOKafkaClient) -> None:
    """Close each connection of a client that is ready only after the client was closed."""
    connect, close = client._get_conn, client.close  # noqa: SLF001 - makes all but the first
    closed = False

    async def watched(*arguments: Any, **options: Any) -> AIOKafkaConnection | None:
        connection = await connect(*arguments, **options)
        if closed and connection is not None:
            connection.close()
        return connection

    async def close_all() -> None:
        nonlocal closed
        closed = True
        await close()

    client._get_conn, client.close = watched, close_all  # noqa: SLF001

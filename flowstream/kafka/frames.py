"""Bounds the frames that clients of aiokafka read.

aiokafka reads as many octets as a peer announces: with 2^31-1 of them the process
takes 4 GB.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable

FRAME_LIMIT: Final = 100_000_000
"""Octets of a frame: the default of librdkafka's receive.message.max.bytes.

aiokafka's consumers ask for 50 MiB at most; metadata takes about 60 octets per partition.
"""


class BoundedId(str):
    """A client id that bounds the frames of its connections.

    aiokafka makes connections itself and passes them little else. Other users of aiokafka
    in this process are not affected.
    """

    __slots__ = ()


_create_reader_task = AIOKafkaConnection._create_reader_task  # noqa: SLF001 - see the module


def _create_bounded_reader_task(connection: AIOKafkaConnection) -> Task[None]:
    if isinstance(connection._client_id, BoundedId):  # noqa: SLF001
        reader = connection._reader  # noqa: SLF001
        reader.readexactly = partial(_read_bounded, reader.readexactly)
    task: Task[None] = _create_reader_task(connection)
    return task


AIOKafkaConnection._create_reader_task = _create_bounded_reader_task  # noqa: SLF001


async def _read_bounded(read: Callable[[int], Awaitable[bytes]], octets: int) -> bytes:
    if not 0 <= octets <= FRAME_LIMIT:
        raise KafkaConnectionError(f"the peer announces a frame of {octets} octets")
    return await read(octets)

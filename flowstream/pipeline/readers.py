"""Takes records out of the kernel: one reader per ring, and the drain of a table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from flowstream.pipeline.publisher import RecordBatch
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.pipeline.probe import Ring
    from flowstream.pipeline.publisher import Intake

    Spawn = Callable[[Coroutine[object, object, None]], asyncio.Task[None]]

READ_RECORDS: Final = 8_192
"""Records taken out of a ring buffer at once."""
COALESCE_S: Final = 0.005
"""How long a reader lets records gather after the first: bounds the work per announcement."""


class RingReader:
    """Moves records from a ring to the publisher.

    While the publisher's queue is full nothing is read: the ring fills, and the
    kernel counts what it loses.
    """

    def __init__(self, ring: Ring, intake: Intake) -> None:
        self._ring, self._intake = ring, intake
        self._moving = asyncio.Lock()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Move records until ``stop``, then those that are in the ring by then."""
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            while not self._stopped.is_set():
                await _readable(self._ring.fd, stopping)
                if not self._stopped.is_set():
                    await asyncio.wait([stopping], timeout=COALESCE_S)
                await self._move()
            # Not until it is empty: a program that stays attached goes on filling it.
            await self.catch_up()
        finally:
            stopping.cancel()

    def stop(self) -> None:
        """Let ``run`` end once what is in the ring has been moved."""
        self._stopped.set()

    async def catch_up(self) -> None:
        """Move every record that is in the ring now, and perhaps some more."""
        end = self._ring.produced
        while self._ring.consumed < end:
            await self._move()
            # A record that is still being written holds up those behind it.
            await asyncio.sleep(0)
        async with self._moving:
            pass  # The records that ``run`` has taken out are with the publisher now.

    async def _move(self) -> None:
        async with self._moving:
            records = self._ring.read(READ_RECORDS)
            if len(records):
                await self._intake.put(RecordBatch(self._ring.stream, records))


class Readers:
    """Running readers of some rings."""

    def __init__(self, rings: Sequence[Ring], intake: Intake, spawn: Spawn) -> None:
        self._readers = [RingReader(ring, intake) for ring in rings]
        self._tasks = [spawn(reader.run()) for reader in self._readers]

    async def catch_up(self) -> None:
        """Move every record that is in the rings now."""
        for reader in self._readers:
            await reader.catch_up()

    async def finish(self) -> None:
        """Move every record that is in the rings now, and end."""
        for reader in self._readers:
            reader.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _readable(fd: int, stopping: asyncio.Future[Any]) -> None:
    """Wait until ``fd`` is readable or ``stopping`` is done."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)


async def move_table(batches: Iterator[NDArray[np.void]], intake: Intake) -> int:
    """Drain a table in a worker thread; return the number of records.

    The next batch is drained only once the queue has room for the previous one.
    """
    loop = asyncio.get_running_loop()
    count = 0
    while (records := await loop.run_in_executor(None, next, batches, None)) is not None:
        count += len(records)
        await intake.put(RecordBatch(Stream.FLOWS, records))
    return count

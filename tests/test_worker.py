"""The thread behind the sinks that write: order, room, results of calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from support.outcomes import Account, eventually, make_batch

from flowstream.delivery.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowstream.messages import MessageBatch

pytestmark = pytest.mark.anyio


class Disk:
    """Writes once it is opened, and notes what in which order."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.written: list[object] = []
        self.account = Account()

    def write(self, batch: MessageBatch) -> tuple[int, str]:
        assert self.opened.wait(60)
        self.written.append(len(batch))
        return len(batch), "io_error"


@pytest.fixture
async def disk() -> AsyncIterator[tuple[Disk, Worker[MessageBatch]]]:
    slow = Disk()
    worker = Worker("test-worker", slow.write, slow.account, pytest.fail, limit=1_000)
    yield slow, worker
    slow.opened.set()
    worker.end()


async def test_a_call_runs_in_turn_and_gives_its_result(
    disk: tuple[Disk, Worker[MessageBatch]],
) -> None:
    slow, worker = disk
    await worker.put(make_batch("t", 0, 0, 3))
    called = worker.call(lambda: slow.written.append("call") or len(slow.written))
    slow.opened.set()
    assert await called == 2
    assert slow.written == [3, "call"]


async def test_an_error_of_a_call_is_its_callers(disk: tuple[Disk, Worker[MessageBatch]]) -> None:
    slow, worker = disk
    slow.opened.set()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await worker.call(fail)
    await worker.put(make_batch("t", 0, 0, 3))
    await eventually(lambda: slow.account.settled == 3)


async def test_what_is_put_at_once_does_not_wait_for_room(
    disk: tuple[Disk, Worker[MessageBatch]],
) -> None:
    slow, worker = disk
    await worker.put(make_batch("t", 0, 0, 5))
    worker.put_at_once(make_batch("t", 0, 5, 7))
    accepted = anyio.Event()

    async def put() -> None:
        await worker.put(make_batch("t", 0, 12, 1))
        accepted.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put)
        await anyio.sleep(0.1)
        assert not accepted.is_set()
        slow.opened.set()
    await eventually(lambda: slow.account.settled == 13)
    assert slow.written == [5, 7, 1]


def test_a_part_of_a_batch_keeps_what_belongs_to_its_messages() -> None:
    whole = make_batch("t", 1, 0, 11)
    assert whole.part(slice(0, 11)) is whole
    part = whole.part(slice(3, 7))
    assert (part.topic, part.partition, len(part)) == ("t", 1, 4)
    assert (part.keys, part.values) == (whole.keys[3:7], whole.values[3:7])
    assert part.timestamps_ms == whole.timestamps_ms[3:7]

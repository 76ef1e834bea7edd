"""The attachments of a run, which may change while it lasts."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from flowstream.agent.probe import snapshot
from flowstream.agent.readers import RingReader, move_table
from flowstream.errors import UsageError
from flowstream.kernel import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from flowstream.accounting.snapshot import Snapshot
    from flowstream.accounting.tally import AttachmentKey
    from flowstream.agent.faults import Faults
    from flowstream.agent.pipeline import Intake
    from flowstream.agent.probe import Attachment, Probe, Ring
    from flowstream.agent.state import Run

    Spawn = Callable[[Coroutine[object, object, None]], asyncio.Task[None]]


class Attachments:
    """Registry of attachments; moves what they and their probe hold to the publisher.

    The run's names follow the attachments. ``spawn`` runs a coroutine as a task
    whose failure ends the run.
    """

    def __init__(self, probe: Probe, intake: Intake, run: Run, spawn: Spawn) -> None:
        self._probe, self._intake = probe, intake
        self._run, self._spawn = run, spawn
        self._present: dict[AttachmentKey, Attachment] = {}
        self._draining = asyncio.Lock()
        self._shared: _Readers | None = None
        self._own: dict[AttachmentKey, _Readers] = {}

    def __contains__(self, key: AttachmentKey) -> bool:
        return key in self._present

    def __iter__(self) -> Iterator[AttachmentKey]:
        """Iterate over the attachments, in the order in which they were added."""
        return iter(tuple(self._present))

    def start(self) -> None:
        """Start reading, for attachments that are there and those added later."""
        self._shared = _Readers(self._probe.rings, self._intake, self._spawn)
        for key, attachment in self._present.items():
            self._own[key] = _Readers(attachment.rings, self._intake, self._spawn)

    def add(self, attachment: Attachment) -> None:
        """Take in an attachment; UsageError for a second one of its key."""
        key = attachment.key
        if key in self._present:
            raise UsageError(f"{attachment.interface}: already attached")
        self._present[key] = attachment
        self._run.names[key.if_index] = attachment.interface
        if self._shared:
            self._own[key] = _Readers(attachment.rings, self._intake, self._spawn)

    async def empty(self, key: AttachmentKey, end_reason: int) -> None:
        """Detach one attachment and move all that its packets left in the kernel."""
        self._present[key].detach()
        # The swap's grace period also ends the last runs of the program.
        await self.drain(end_reason)
        if self._shared:
            await self._shared.catch_up()
        if key in self._own:
            await self._own[key].finish()

    def forget(self, last: Snapshot) -> None:
        """Close an attachment that was emptied; ``last`` are its final counts."""
        key = last.key
        self._run.removed[key] = last.kernel
        self._present.pop(key).close()
        self._own.pop(key, None)
        if not any(each.if_index == key.if_index for each in self._present):
            del self._run.names[key.if_index]

    async def drain(self, end_reason: int) -> None:
        """Swap the probe's tables and move the one that was active."""
        async with self._draining:
            await move_table(self._probe.drain(end_reason), self._intake)

    def detach(self, faults: Faults) -> None:
        """Detach all attachments; they can still be read and counted."""
        for attachment in self._present.values():
            with faults.collected():
                attachment.detach()

    async def finish(self) -> None:
        """Move what is left in all rings and end reading."""
        for readers in (self._shared, *self._own.values()):
            if readers:
                await readers.finish()

    def snapshot(self, key: AttachmentKey) -> Snapshot:
        """All counts of one attachment; they go on where those of an earlier one ended."""
        counts = snapshot(self._present[key], self._probe, self._run.ledger, clock.now())
        if (earlier := self._run.removed.get(key)) is None:
            return counts
        return dataclasses.replace(counts, kernel=counts.kernel.plus(earlier))

    def snapshots(self) -> list[Snapshot]:
        """All counts of every attachment, in the order in which they were added."""
        return [self.snapshot(key) for key in self._present]

    def seen_packets(self) -> int:
        """Packets that the programs of all attachments of the run saw, also of those removed."""
        removed = (counts for key, counts in self._run.removed.items() if key not in self._present)
        kernel = (*removed, *(each.kernel for each in self.snapshots()))
        return sum(counts.seen.packets for counts in kernel)


class _Readers:
    """Running readers of some rings."""

    def __init__(self, rings: Sequence[Ring], intake: Intake, spawn: Spawn) -> None:
        self._readers = [RingReader(ring, intake) for ring in rings]
        self._tasks = [spawn(reader.run()) for reader in self._readers]

    async def catch_up(self) -> None:
        for reader in self._readers:
            await reader.catch_up()

    async def finish(self) -> None:
        for reader in self._readers:
            reader.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

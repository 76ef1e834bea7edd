"""The attachments of a run, which may change while it lasts."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from flowstream.accounting.run import Known
from flowstream.accounting.snapshot import Snapshot, TableState
from flowstream.errors import UsageError
from flowstream.histogram import DURATIONS, Histogram
from flowstream.kernel import clock
from flowstream.layouts.constants import EndReason
from flowstream.pipeline.probe import facts
from flowstream.pipeline.readers import Readers, move_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.books import Facts
    from flowstream.accounting.run import Run
    from flowstream.agent.faults import Faults
    from flowstream.pipeline.probe import Attachment, Probe
    from flowstream.pipeline.publisher import Intake
    from flowstream.pipeline.readers import Spawn


class Attachments:
    """Registry of attachments; moves what they and their probe hold to the publisher.

    One that was removed is closed once it is emptied; its counts stay here until
    ``forget``. The run's names follow the attachments. ``spawn`` runs a coroutine as a
    task whose failure ends the run.
    """

    def __init__(self, probe: Probe, intake: Intake, run: Run, spawn: Spawn) -> None:
        self._probe, self._intake = probe, intake
        self._run, self._spawn = run, spawn
        self._present: dict[AttachmentKey, _Present] = {}
        self._departed: dict[AttachmentKey, Departed] = {}
        self._draining = asyncio.Lock()
        self.drain_duration = Histogram(DURATIONS)
        self._next_drain: asyncio.Task[None] | None = None
        self._shared: Readers | None = None

    def __contains__(self, key: AttachmentKey) -> bool:
        return key in self._present

    def __getitem__(self, key: AttachmentKey) -> Attachment:
        return self._present[key].attachment

    def __iter__(self) -> Iterator[AttachmentKey]:
        """Iterate over those whose final counters are still to come, then over those there.

        The first are in the order in which they went.
        """
        return iter((*self._departed, *self._present))

    def has_counts(self, key: AttachmentKey) -> bool:
        """Whether an attachment is there, or its final counters are still to come."""
        return key in self._present or key in self._departed

    def start(self) -> None:
        """Start reading, for attachments that are there and those added later."""
        self._shared = Readers(self._probe.rings, self._intake, self._spawn)
        for present in self._present.values():
            self._read(present)

    def add(self, attachment: Attachment, netns: str = "") -> None:
        """Take in an attachment; its counts go on where those of an earlier one ended.

        ``netns`` is the name of its network namespace. UsageError for a second one of its key.
        """
        key = attachment.key
        if key in self._present:
            raise UsageError(f"{attachment.interface}: already attached")
        if departed := self._departed.pop(key, None):
            earlier: KernelCounts | None = departed.kernel
        else:
            earlier = self._run.reopen_account(key)
        previous = self._run.previous.get(key, 0)
        its = facts(attachment, attachment.interface, netns, previous)
        self._present[key] = _Present(attachment, its, earlier)
        self._run.names[key.if_index] = attachment.interface
        self._note(key)
        self._run.changes["attached"] += 1
        if self._shared:
            self._read(self._present[key])

    def _note(self, key: AttachmentKey) -> None:
        present = self._present[key]
        self._run.know(key, Known(present.facts, attached=True, kernel=present.earlier))

    def replace(self, attachment: Attachment) -> Former:
        """Take in an attachment that took over the link of the present one of its key.

        Counts go on. ``empty_former`` then takes what the present one left in the kernel.
        """
        present = self._present[attachment.key]
        shares_counters = attachment.counters_id == present.attachment.counters_id
        former = Former(present, present.attachment, present.readers, not shares_counters)
        present.attachment, present.readers = attachment, None
        name, before = self._run.names[attachment.key.if_index], present.facts
        present.facts = facts(attachment, name, before.netns, before.previous_epoch)
        present.former.append(former)
        former.attachment.let_go()
        self._note(attachment.key)
        if self._shared:
            self._read(present)
        return former

    async def empty_former(self, former: Former) -> None:
        """Move all that a replaced attachment left in the kernel, and close it."""
        # The swap's grace period also ends the last runs of its program.
        await self._drain_next(EndReason.INTERVAL_OVER)
        if former.readers:
            await former.readers.finish()
        former.successor.bury(former)
        former.attachment.close()

    def _read(self, present: _Present) -> None:
        present.readers = Readers(present.attachment.rings, self._intake, self._spawn)

    async def empty(self, key: AttachmentKey, end_reason: int) -> Departed:
        """Detach and close one attachment and move all that its packets left in the kernel."""
        present = self._present[key]
        # Waits for the kernel's lock of all network devices.
        await asyncio.to_thread(present.attachment.detach)
        # The swap's grace period also ends the last runs of the program.
        await self._drain_next(end_reason)
        if self._shared:
            await self._shared.catch_up()
        if present.readers:
            await present.readers.finish()
        departed = Departed(present.facts, present.counters())
        del self._present[key]
        self._departed[key] = departed
        # Before its own counters are gone.
        last = self._run.known[key]._replace(attached=False, kernel=departed.kernel)
        self._run.know(key, last)
        self._run.changes["detached"] += 1
        present.attachment.unpin()
        present.attachment.close()
        return departed

    def is_waiting(self, key: AttachmentKey, departed: Departed) -> bool:
        """Whether an attachment that went has not come back."""
        return self._departed.get(key) is departed

    def forget(self, key: AttachmentKey) -> None:
        """Forget an attachment that went; what its account says is kept elsewhere."""
        self._run.close_account(key, self._departed.pop(key).kernel)
        if not any(each.if_index == key.if_index for each in self):
            del self._run.names[key.if_index]

    async def drain(self, end_reason: int) -> None:
        """Swap the probe's tables and move the one that was active."""
        async with self._draining:
            await self._move_table(end_reason)

    async def _drain_next(self, end_reason: int) -> None:
        """Return after a drain that begins after this call: one for all who wait for it."""
        if self._next_drain is None:
            self._next_drain = asyncio.ensure_future(self._begin_drain(end_reason))
        await asyncio.shield(self._next_drain)

    async def _begin_drain(self, end_reason: int) -> None:
        async with self._draining:
            self._next_drain = None
            await self._move_table(end_reason)

    async def _move_table(self, end_reason: int) -> None:
        began = time.perf_counter()
        await move_table(self._probe.drain(end_reason), self._intake)
        self.drain_duration.observe(time.perf_counter() - began)

    def detach(self, faults: Faults) -> None:
        """Detach all attachments; they can still be read and counted.

        Where one cannot be detached, because the attacher does not answer, no program counts
        any more, and the others are not waited for.
        """
        attached = deque(present.attachment for present in self._present.values())
        with faults.collected():
            while attached:
                attached[0].detach()
                attached.popleft()
        if attached:
            with faults.collected():
                self._probe.stop()
        for each in attached:
            each.let_go()

    async def finish(self) -> None:
        """Move what is left in all rings and end reading."""
        own = [readers for each in self._present.values() for readers in each.all_readers()]
        for readers in (self._shared, *own):
            if readers:
                await readers.finish()

    def snapshot(self, key: AttachmentKey) -> Snapshot:
        """All counts of one attachment."""
        its = self._present.get(key) or self._departed[key]
        name = self._run.names[key.if_index]
        # Before the ledger's.
        kernel = its.counters()
        return Snapshot(
            key=key,
            facts=msgspec.structs.replace(its.facts, interface=name),
            time=clock.now(),
            kernel=kernel,
            account=copy.deepcopy(self._run.ledger.account(key)),
            table=TableState(
                self._probe.table_entries(), self._probe.max_flows, self._probe.swaps
            ),
        )

    def close(self) -> None:
        """Detach and release all attachments; harmless twice."""
        for present in self._present.values():
            present.attachment.close()

    def seen_packets(self) -> int:
        """Packets that the programs of all attachments of the run saw, also of those that went."""
        its = self.kernel_counts()
        return self._run.past.seen_packets + sum(each.seen.packets for each in its)

    def kernel_counts(self) -> list[KernelCounts]:
        """Return the kernel's counts of all attachments, except of those that are past."""
        counts = [each.counters() for each in self._present.values()]
        return counts + [each.kernel for each in self._departed.values()]


@dataclass(slots=True)
class _Present:
    """An attachment, the kernel's counts of an earlier one of its key, and its readers.

    In ``facts`` the interface has the name that it had first; the run has the present one.
    ``former`` are those whose link it took over, until nothing of them is left in the kernel.
    """

    attachment: Attachment
    facts: Facts
    earlier: KernelCounts | None
    readers: Readers | None = None
    former: list[Former] = field(default_factory=list)

    def counters(self) -> KernelCounts:
        counts = self.attachment.counters()
        for each in self.former:
            if each.has_counters:
                counts = counts.plus(each.attachment.counters())
        return counts if self.earlier is None else counts.plus(self.earlier)

    def all_readers(self) -> list[Readers | None]:
        """Return the readers of this attachment and of the former ones."""
        return [self.readers, *(each.readers for each in self.former)]

    def bury(self, former: Former) -> None:
        """Keep the last counts of a former attachment."""
        if former.has_counters:
            last = former.attachment.counters()
            self.earlier = last if self.earlier is None else last.plus(self.earlier)
        self.former.remove(former)


@dataclass(frozen=True, slots=True)
class Former:
    """An attachment whose link another one took over.

    ``has_counters``: it has counters of its own, with which the other one does not go on.
    """

    successor: _Present
    attachment: Attachment
    readers: Readers | None
    has_counters: bool


@dataclass(frozen=True, slots=True)
class Departed:
    """What remains of an attachment that went: ``kernel`` are its last counts."""

    facts: Facts
    kernel: KernelCounts

    def counters(self) -> KernelCounts:
        """Return the last counts."""
        return self.kernel

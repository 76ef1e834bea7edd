"""The spool: batches that wait on disk until a broker takes them.

DIR/TOPIC-PARTITION/BASE.log are Kafka log segments, as in a recording. BASE.tally beside
each is its sidecar: run, stream and tally of each batch. DIR/checkpoint says what was
published.

What ``append`` says is written was handed to the operating system: it survives the end of
the process. ``sync`` makes it survive the end of the system.
"""

from __future__ import annotations

import errno
import os
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.compression import COMPRESSION
from flowstream.errors import SinkError
from flowstream.segments import checkpoint
from flowstream.segments.checkpoint import Checkpoint, Position
from flowstream.segments.claim import Lock, acting_as
from flowstream.segments.directory import Directory
from flowstream.segments.encoding import load
from flowstream.segments.reader import PARTITION_NAME
from flowstream.segments.spool_limits import apply
from flowstream.segments.spool_partition import SpoolPartition
from flowstream.segments.spooled import Inventory, Losses, Stock
from flowstream.segments.tail import Limits, Origin
from flowstream.segments.takeover import check_spool, read_checkpoint, write_first

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from flowstream.accounting.amounts import RecordAmount
    from flowstream.messages import MessageBatch
    from flowstream.segments.retention import Retention
    from flowstream.segments.spooled import Lost, SpooledBatch, Waiting

MAX_SEGMENT_BYTES: Final = 64 << 20
"""Small enough that not much is given up at once to make room."""


class Spool(Closing):
    """A spool in ``directory``; blocks, and is for use from one thread at a time.

    ``retention`` limits it: beyond the size or the age ``tidy`` gives up the oldest
    segments. What it creates belongs to ``owner`` (uid, gid), so that a process can give
    up root after ``open``. ``compression`` is that of new batches.

    Every record leaves it exactly once: by ``acknowledge``, or in a ``Lost`` that ``gone``
    returns. Both become final by the next ``save``; until then a later run has it again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention,
        owner: tuple[int, int] | None = None,
        segment_bytes: int | None = None,
        compression: str = COMPRESSION,
    ) -> None:
        self._path = directory
        self.where = f"spool {directory}"
        """For messages."""
        self._retention = retention
        self._owner = owner
        self._segment_bytes = segment_bytes
        self._compression = compression
        self._limits = Limits(0, compression)
        self._inventory = Inventory(Stock(), Losses())
        self._root: Directory | None = None
        self._lock: Lock | None = None
        self._positions: dict[str, Position] = {}
        self._partitions: dict[tuple[str, int], SpoolPartition] = {}
        self.runs: Mapping[int, Sequence[bytes]] = {}
        """What ``save`` was given last, by ``agent_epoch``; after ``open`` by the run before."""

    def open(self, partitions: Mapping[str, int]) -> None:
        """Take the spool over: lock it, find what waits, create missing partitions.

        ``partitions`` are the numbers by topic that will be appended to. Needs the
        privileges of the moment only to open; what is read, is read as ``owner``. Raises
        ``SinkError``, and everything is closed again: for a directory that is a file, is
        in use, contains anything else, belongs to an unknown version, or cannot be
        written by ``owner``. No link below ``directory`` is followed.
        """
        try:
            self._open(partitions)
        except OSError as err:
            self.close()
            raise SinkError(
                f"{self.where}: {err.strerror}: {err.filename}; "
                "use a directory that the agent's user can write"
            ) from err
        except BaseException:
            self.close()
            raise

    def append(
        self, batch: MessageBatch, agent_epoch: int, *, in_doubt: bool = False
    ) -> tuple[int, OSError | None]:
        """Write the batch's records; return how many, and the error of the others.

        ``in_doubt``: they were sent and never answered. After an error it can be tried
        again at any time. Partitions that a topic got since ``open`` are created.
        """
        try:
            partition = self._partition(batch.topic, batch.partition)
        except SinkError as err:
            return 0, OSError(errno.ELOOP, str(err))
        except OSError as err:
            return 0, err
        return partition.append(batch, Origin(agent_epoch, in_doubt))

    def read(self, without: Collection[tuple[str, int]] = ()) -> SpooledBatch | None:
        """Return the next unread batch, by the time of its first record; None without one.

        ``without``: not of these topics and partitions. Damaged batches are passed over
        (``gone``). Raises ``OSError`` where it cannot be read now, such as without
        descriptors; try again later.
        """
        partitions = [each for key, each in self._partitions.items() if key not in without]
        while True:
            unread = [(time, each) for each in partitions if (time := each.next_ms()) is not None]
            if not unread:
                return None
            if (batch := min(unread, key=itemgetter(0))[1].read()) is not None:
                return batch

    def acknowledge(self, spooled: SpooledBatch) -> None:
        """Settle a batch: it was published, or failed for good. In any order, once each."""
        topic, partition, base_offset = spooled.place
        self._partitions[topic, partition].acknowledge(base_offset)

    def doubt(self, spooled: SpooledBatch) -> None:
        """Note that a batch was sent and not answered: if a later run loses it, it is in doubt."""
        topic, partition, base_offset = spooled.place
        self._partitions[topic, partition].doubt(base_offset)

    def tidy(self, now_ms: int) -> None:
        """Give up what was deleted, and what is beyond the limits: the oldest segment first.

        Its unread records are ``gone``; what was read still waits for its outcome. Files
        are deleted by the next ``save``. Raises ``OSError`` where they cannot be read.
        """
        apply(self._retention, self._partitions.values(), now_ms)

    def gone(self) -> list[Lost]:
        """Return what left unpublished since the last call: dropped, expired or damaged.

        To be added to the books, and ``save`` to be called with those. What was not
        returned when ``save`` is called is kept in the checkpoint, for the next run too.
        """
        return self._inventory.losses.take()

    def sync(self) -> None:
        """Make everything durable; ``OSError`` as long as anything waiting may not be.

        After a failed fsync that is so until those records have left the spool.
        """
        fault = None
        for partition in self._partitions.values():
            try:
                partition.sync()
            except OSError as err:
                fault = err
        if fault is not None:
            raise fault

    def save(self, runs: Mapping[int, Sequence[bytes]] | None = None) -> None:
        """Write the checkpoint, durably, and delete the segments that it makes superfluous.

        ``runs``, if given, replaces the attribute. Raises ``OSError``: nothing is final
        then; try again later.
        """
        if runs is not None:
            self.runs = runs
        if self._root is None:
            return
        # Also where the disk is full: published segments make room for the checkpoint.
        for partition in self._partitions.values():
            partition.delete(lossy=False)
        checkpoint.write(self._root, self._checkpoint())
        for partition in self._partitions.values():
            partition.delete(lossy=True)
            partition.cut()

    @property
    def exceeded(self) -> bool:
        """Whether it is beyond its size: time to ``tidy``."""
        return self._retention.size is not None and self.octets > self._retention.size

    @property
    def records(self) -> int:
        """Records that wait, in flight ones too."""
        return self._inventory.stock.records

    @property
    def amounts(self) -> Mapping[Waiting, RecordAmount]:
        """What waits, by run, stream and attachment, as far as it is known. Not a copy."""
        return self._inventory.stock.amounts

    @property
    def topics(self) -> set[str]:
        """Topics whose records wait."""
        waiting = self._partitions.items()
        return {topic for (topic, _), each in waiting if each.oldest() is not None}

    @property
    def octets(self) -> int:
        """Octets of all segments and their sidecars that were not given up."""
        return sum(partition.octets for partition in self._partitions.values())

    @property
    def oldest_ms(self) -> int | None:
        """First time in the oldest segment that waits, Unix ms; None when nothing waits."""
        segments = [partition.oldest() for partition in self._partitions.values()]
        times = [each.oldest_ms for each in segments if each is not None]
        return min((time for time in times if time is not None), default=None)

    def close(self) -> None:
        """Close everything, without ``sync`` and ``save``, and release the lock."""
        for partition in self._partitions.values():
            partition.close()
        self._partitions = {}
        if self._lock is not None:
            self._lock.close()
        if self._root is not None:
            self._root.close()
            self._root = None

    def _open(self, partitions: Mapping[str, int]) -> None:
        load(self._compression)
        root = self._root = Directory.open(self._path, self._owner)
        check_spool(root, self.where)
        self._lock = Lock(root, self.where)
        size = self._segment_bytes or self._retention.segment_bytes(sum(partitions.values()))
        self._limits = Limits(min(size, MAX_SEGMENT_BYTES), self._compression)
        with acting_as(self._owner):
            root.require_access()
            found = read_checkpoint(root, self.where)
        self._positions, self.runs = found.partitions, found.runs
        for lost in found.gone:
            self._inventory.losses.add(lost)
        present = [name for name in root.names() if PARTITION_NAME.fullmatch(name)]
        wanted = [f"{topic}-{n}" for topic, count in partitions.items() for n in range(count)]
        for name in dict.fromkeys([*present, *wanted]):
            topic, _, number = name.rpartition("-")
            self._add(root, topic, int(number))
        with acting_as(self._owner):
            for partition in self._partitions.values():
                partition.open()
            write_first(root, found, something_waits=self.records > 0)

    def _partition(self, topic: str, number: int) -> SpoolPartition:
        known = self._partitions.get((topic, number))
        if known is None and self._root is not None:
            known = self._add(self._root, topic, number)
        if known is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return known

    def _add(self, root: Directory, topic: str, number: int) -> SpoolPartition:
        name = f"{topic}-{number}"
        added = self._partitions[topic, number] = SpoolPartition(
            root.directory(name),
            topic,
            number,
            self._positions.get(name, Position()),
            self._inventory,
            self._limits,
        )
        return added

    def _checkpoint(self) -> Checkpoint:
        positions = {
            f"{topic}-{number}": each.position
            for (topic, number), each in self._partitions.items()
        }
        runs = {epoch: list(each) for epoch, each in self.runs.items()}
        return Checkpoint(positions, runs, self._inventory.losses.pending())

"""Accounts of an audit: adds up records per run, interface and direction. Pure."""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.audit.balance import balance
from flowstream.audit.chains import chains
from flowstream.audit.columns import RunKey, columns
from flowstream.audit.result import Result
from flowstream.audit.sums import Begins, RunAccounts
from flowstream.errors import DecodeError
from flowstream.reading.selection import decoded
from flowstream.records import CountersRecord, RecordType
from flowstream.records.decoding import format_of
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.accounting.tally import Tally
    from flowstream.audit.columns import Columns
    from flowstream.messages import Message

_FLOW_TYPES = {Stream.FLOWS: RecordType.FLOW, Stream.NEW_FLOWS: RecordType.NEW_FLOW}


class Observer(Protocol):
    """Gets what an audit reads, each record once: a repeated one only the first time."""

    def observe_flows(self, stream: Stream, columns: Columns, fresh: NDArray[np.bool_]) -> None:
        """Take the records that are ``fresh``, of shape (n,); others are repeated.

        The columns are valid during this call.
        """

    def observe_counters(self, record: CountersRecord) -> None:
        """Take a counters record."""


class Audit:
    """Adds up published records, in any order, and balances the accounts of every run.

    A repeated record (the same ``seq`` of the same run and topic) counts as a
    duplicate and is summed once. Whether it repeats the first is known after a second
    reading: where ``repeats``, pass all messages to ``compare``, too. Memory grows by a
    bit per record where the sequence numbers are dense, by at most some 16 octets
    elsewhere, and by 16 octets per duplicate. An ``observer`` gets the records, too.
    """

    def __init__(
        self,
        topic_prefix: str = "flowstream",
        *,
        without_announcements: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer
        self._streams = {
            f"{topic_prefix}.{stream}": stream
            for stream in Stream
            if stream is not Stream.NEW_FLOWS or not without_announcements
        }
        self._notes = (
            [f"{topic_prefix}.{Stream.NEW_FLOWS}: no such topic: announcements were not checked"]
            if without_announcements
            else []
        )
        self._runs: dict[RunKey, RunAccounts] = defaultdict(RunAccounts)
        self._begins = {stream: Begins() for stream in Stream}
        # One message of each format, by topic.
        self._formats: dict[str, dict[str | None, Message]] = {
            topic: {} for topic in self._streams
        }

    @property
    def topics(self) -> list[str]:
        """Topics to read."""
        return list(self._streams)

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages of these topics.

        Raises DecodeError naming topic, partition and offset of a value that is not
        a record or does not belong in its topic.
        """
        groups: dict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            groups[message.topic, message.partition].append(message)
        for (topic, partition), group in groups.items():
            stream = self._streams[topic]
            self._begins[stream].note(min(group, key=attrgetter("offset")))
            if stream is Stream.COUNTERS:
                self._add_counters(group)
                continue
            for part in columns(group, _FLOW_TYPES[stream]):
                self._note_format(part.messages[0])
                self._add_flows(stream, partition, part)

    @property
    def repeats(self) -> bool:
        """Whether any ``seq`` occurred again."""
        return any(repeats for run in self._runs.values() for repeats in run.repeats.values())

    def compare(self, messages: Sequence[Message]) -> None:
        """Compare messages of a second reading with the repeated records of the first.

        Others may be among them. Raises DecodeError as ``add`` does.
        """
        groups: dict[Stream, list[Message]] = defaultdict(list)
        for message in messages:
            groups[self._streams[message.topic]].append(message)
        for record in map(_counters_of, groups.pop(Stream.COUNTERS, [])):
            repeats = self._runs[_run_of(record)].repeats[Stream.COUNTERS]
            repeats.compare(np.array([record.seq], np.uint64), _digest(record))
        for stream, group in groups.items():
            for part in columns(group, _FLOW_TYPES[stream]):
                for key, mine in part.by_run():
                    self._runs[key].repeats[stream].compare(mine.seq, mine.digest)

    def _add_flows(self, stream: Stream, partition: int, part: Columns) -> None:
        fresh = np.zeros(len(part.seq), np.bool_)
        for key, mine in part.by_run():
            run = self._runs[key]
            run.note_partition(stream, partition, int(mine.seq.min()))
            counted = run.note_seqs(stream, mine.seq, mine.digest)
            fresh[mine.places] = counted
            if stream is Stream.NEW_FLOWS:
                # An announcement stands for no packets.
                run.announced_packets += sum(mine.tally.packets.tolist())
                counted[:] = False
            _add_published(run, mine.tally, counted)
        if self._observer:
            self._observer.observe_flows(stream, part, fresh)

    def _add_counters(self, messages: Sequence[Message]) -> None:
        for message in messages:
            record = _counters_of(message)
            self._note_format(message)
            run = self._runs[_run_of(record)]
            run.note_partition(Stream.COUNTERS, message.partition, record.seq)
            seq = np.array([record.seq], np.uint64)
            (is_fresh,) = run.note_seqs(Stream.COUNTERS, seq, _digest(record))
            run.note_counters(record)
            if self._observer and is_fresh:
                self._observer.observe_counters(record)

    def _note_format(self, message: Message) -> None:
        self._formats[message.topic].setdefault(format_of(message.value), message)

    def result(self) -> Result:
        """Balance the accounts as they are now, the oldest run first."""
        names = {stream: topic for topic, stream in self._streams.items()}
        emptied = self._emptied()
        successors = self._successors()
        runs = [
            balance(
                key,
                self._runs[key],
                names,
                self._begins,
                successors=successors.get(key, {}),
                spool_emptied=key.agent_epoch < emptied.get(key.host_id, 0),
            )
            for key in sorted(self._runs, key=lambda key: (key.agent_epoch, key.host_id))
        ]
        runs = [msgspec.structs.replace(run, notes=[*run.notes, *self._notes]) for run in runs]
        mixed = [_mixed(formats) for formats in self._formats.values() if len(formats) > 1]
        linked = chains(runs, trimmed=bool(self._begins[Stream.COUNTERS].trimmed))
        holds = not any(run.problems for run in runs) and not any(
            chain.problems for chain in linked
        )
        return Result(holds, runs, mixed, linked)

    def _successors(self) -> dict[RunKey, dict[AttachmentKey, list[int]]]:
        """By run and attachment, the epochs of the runs that name it as the one before."""
        found: dict[RunKey, dict[AttachmentKey, list[int]]] = defaultdict(dict)
        for key, run in sorted(self._runs.items()):
            for attachment in run.previous:
                for epoch in run.predecessors(attachment):
                    named = found[RunKey(key.host_id, epoch)]
                    named.setdefault(attachment, []).append(key.agent_epoch)
        return found

    def _emptied(self) -> dict[bytes, int]:
        """By host, the epoch of its latest run that says that the spool is empty."""
        found: dict[bytes, int] = {}
        for key, run in self._runs.items():
            last = run.counters.values()
            if last and all(not record.spool.octets for record in last):
                found[key.host_id] = max(key.agent_epoch, found.get(key.host_id, 0))
        return found


def _counters_of(message: Message) -> CountersRecord:
    record = decoded(message)
    if not isinstance(record, CountersRecord):
        raise DecodeError(f"{message.place}: a record of type {record.record_type}")
    return record


def _run_of(record: CountersRecord) -> RunKey:
    return RunKey(record.host_id, record.agent_epoch)


def _digest(record: CountersRecord) -> NDArray[np.uint64]:
    """Digest of a whole record, whatever its format; shape (1,)."""
    octets = blake2b(msgspec.msgpack.encode(record, order="sorted"), digest_size=8).digest()
    return np.array([int.from_bytes(octets)], np.uint64)


def _add_published(run: RunAccounts, tally: Tally, counted: NDArray[np.bool_]) -> None:
    """Sum the records that are ``counted``; every attachment gets an account."""
    for code in set(tally.attachments.tolist()):
        here = tally[(tally.attachments == code) & counted]
        # Sums of numpy would wrap at 64 bits.
        amount = RecordAmount(len(here), sum(here.packets.tolist()), sum(here.l2_bytes.tolist()))
        key = AttachmentKey.of_code(code)
        run.published[key] = run.published.get(key, RecordAmount()).plus(amount)


def _mixed(formats: dict[str | None, Message]) -> str:
    """Warning for a topic with several formats: a consumer of one fails at the others."""
    found = "; ".join(f"{name} at {message.place}" for name, message in formats.items())
    return f"values of {len(formats)} formats in one topic: {found}"

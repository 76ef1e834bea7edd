"""The accounts of an audit: every record in, the equation per run and interface out. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from flowstream.audit.columns import RunKey, columns, decode_message, place
from flowstream.audit.result import GAPS_SHOWN, Amount, Interface, Result, Run, Topic
from flowstream.audit.seqs import SeqSet
from flowstream.audit.verdict import notes, problems
from flowstream.errors import DecodeError
from flowstream.records import CountersRecord, RecordType
from flowstream.records.decoding import format_of
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.audit.columns import Columns
    from flowstream.messages import Message

_FLOW_TYPES = {Stream.FLOWS: RecordType.FLOW, Stream.NEW_FLOWS: RecordType.NEW_FLOW}


@dataclass(slots=True)
class _RunAccounts:
    """What was seen of one run: sums by interface index, sequences by topic."""

    seqs: dict[Stream, SeqSet] = field(default_factory=lambda: {s: SeqSet() for s in Stream})
    partitions: dict[Stream, set[int]] = field(default_factory=lambda: defaultdict(set))
    packets: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    l2_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    counters: dict[int, CountersRecord] = field(default_factory=dict)


class Audit:
    """Adds up published records, in any order, and gives the accounts of every run.

    A record that came twice (the same ``seq`` of the same run and topic) is
    counted as a duplicate and summed once. Memory grows by a bit per record.
    """

    def __init__(self, topic_prefix: str = "flowstream") -> None:
        self._streams = {f"{topic_prefix}.{stream}": stream for stream in Stream}
        self._runs: dict[RunKey, _RunAccounts] = defaultdict(_RunAccounts)
        # One message of each format, by topic.
        self._formats: dict[str, dict[str | None, Message]] = {
            topic: {} for topic in self._streams
        }

    @property
    def topics(self) -> list[str]:
        """The topics whose messages belong here."""
        return list(self._streams)

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages of these topics.

        Raises DecodeError naming topic, partition and offset of a value that is
        no record or that has no business in its topic.
        """
        groups: dict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            groups[message.topic, message.partition].append(message)
        for (topic, partition), group in groups.items():
            stream = self._streams[topic]
            if stream is Stream.COUNTERS:
                self._add_counters(group)
                continue
            for part in columns(group, _FLOW_TYPES[stream]):
                self._note_format(part.first)
                self._add_flows(stream, partition, part)

    def _add_flows(self, stream: Stream, partition: int, part: Columns) -> None:
        for number, key in enumerate(part.runs):
            of_run = part.run == number
            run = self._runs[key]
            run.partitions[stream].add(partition)
            fresh = run.seqs[stream].add(part.seq[of_run])
            if stream is not Stream.FLOWS:
                continue  # an announcement stands for no packets
            in_if = part.in_if[of_run][fresh]
            packets, l2_bytes = part.packets[of_run][fresh], part.l2_bytes[of_run][fresh]
            for index in np.unique(in_if).tolist():
                here = in_if == index
                run.packets[index] += int(packets[here].sum())
                run.l2_bytes[index] += int(l2_bytes[here].sum())

    def _add_counters(self, messages: Sequence[Message]) -> None:
        for message in messages:
            record = decode_message(message)
            if not isinstance(record, CountersRecord):
                raise DecodeError(f"{place(message)}: a record of type {record.record_type}")
            self._note_format(message)
            run = self._runs[RunKey(record.host_id, record.agent_epoch)]
            run.partitions[Stream.COUNTERS].add(message.partition)
            run.seqs[Stream.COUNTERS].add(np.array([record.seq], np.uint64))
            last = run.counters.get(record.in_if)
            if last is None or record.seq > last.seq:
                run.counters[record.in_if] = record

    def _note_format(self, message: Message) -> None:
        self._formats[message.topic].setdefault(format_of(message.value), message)

    def result(self) -> Result:
        """Give the accounts as they stand now, the oldest run first."""
        names = {stream: topic for topic, stream in self._streams.items()}
        runs = [
            _run(key, self._runs[key], names)
            for key in sorted(self._runs, key=lambda key: (key.agent_epoch, key.host_id))
        ]
        mixed = [_mixed(formats) for formats in self._formats.values() if len(formats) > 1]
        return Result(all(not run.problems for run in runs), runs, mixed)


def _mixed(formats: dict[str | None, Message]) -> str:
    """Say that a topic has several formats: what reads one of them stumbles over the others."""
    found = "; ".join(f"{name} at {place(message)}" for name, message in formats.items())
    return f"values of {len(formats)} formats in one topic: {found}"


def _run(key: RunKey, run: _RunAccounts, names: dict[Stream, str]) -> Run:
    indexes = sorted(run.counters.keys() | run.packets.keys())
    interfaces = [_interface(index, run) for index in indexes]
    topics = [_topic(stream, name, run) for stream, name in names.items()]
    return Run(
        host_id=key.host_id.hex(),
        host=next((record.host for record in run.counters.values()), ""),
        agent_epoch=key.agent_epoch,
        interfaces=interfaces,
        topics=topics,
        problems=problems(interfaces, topics),
        notes=notes(topics),
    )


def _interface(index: int, run: _RunAccounts) -> Interface:
    flows = Amount(run.packets.get(index, 0), run.l2_bytes.get(index, 0))
    record = run.counters.get(index)
    if record is None:
        return Interface.without_counters(index, flows)
    rx = Amount(record.rx_packets, record.rx_bytes)
    parts = {
        "non_ip": Amount(record.non_ip_packets, record.non_ip_bytes),
        "malformed": Amount(record.malformed_packets, record.malformed_bytes),
        "sampled_out": Amount(record.sampled_out_packets, record.sampled_out_bytes),
        "counted": Amount(record.counted_packets, record.counted_bytes),
    }
    losses = {cause: Amount(loss.packets, loss.bytes) for cause, loss in record.losses.items()}
    explained = [flows, *parts.values(), *losses.values()]
    return Interface(
        in_if=index,
        name=record.in_if_name,
        counters=True,
        final=record.final,
        rx=rx,
        flows=flows,
        losses=losses,
        difference=Amount(
            rx.packets - sum(part.packets for part in explained),
            rx.bytes - sum(part.bytes for part in explained),
        ),
        **parts,
    )


def _topic(stream: Stream, name: str, run: _RunAccounts) -> Topic:
    seqs = run.seqs[stream]
    expected, failed = None, 0
    if stream is not Stream.COUNTERS:
        stages = [getattr(record, stream) for record in run.counters.values()]
        failed = sum(stage.failed for stage in stages)
        # Only the end of a run says how many records it made.
        if stages and all(record.final for record in run.counters.values()):
            expected = sum(stage.encoded for stage in stages)
    seen = 0 if seqs.highest is None else seqs.highest + 1
    end = seen if expected is None else expected
    gaps = list(islice(seqs.gaps(end), GAPS_SHOWN))
    return Topic(
        topic=name,
        stream=stream,
        records=seqs.count,
        first_seq=seqs.lowest,
        last_seq=seqs.highest,
        expected=expected,
        failed=failed,
        missing=seqs.missing(end),
        gaps=gaps,
        duplicates=seqs.duplicates,
        partitions=len(run.partitions[stream]),
    )

"""Flow records as the columns that an audit needs.

numpy reads values of the fixed layout in place. JSON values are read by
msgspec without making records of them. Both accept exactly the values that
``flowstream.records.decode`` accepts: a group of messages in which one might be
something else goes through ``decode``, one by one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from flowstream.accounting.tally import Tally, attachment_codes
from flowstream.audit.fields import LayoutFields, RecordFields
from flowstream.encode.fixed_layout import octets_of, published_flows
from flowstream.encode.hashes import hashes_of
from flowstream.errors import DecodeError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.reading.selection import decoded
from flowstream.records import SCHEMA_VERSION, FlowRecord, RecordType
from flowstream.records.decoding import format_of
from flowstream.records.json_form import FlowJson, check_texts
from flowstream.records.text import host_id_bytes
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from flowstream.audit.fields import Fields
    from flowstream.messages import Message


class RunKey(NamedTuple):
    """Names one run of one agent."""

    host_id: bytes
    agent_epoch: int


class RunColumns(NamedTuple):
    """Columns of the records of one run; ``places`` are their indexes among all."""

    places: NDArray[np.intp]
    seq: NDArray[np.uint64]
    tally: Tally
    digest: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of n flow records, those of ``messages``, which have one format.

    ``run`` has indexes into ``runs``, ``digest`` tells records apart that have one
    ``seq``, ``fields`` has the columns that an audit does without.
    """

    messages: Sequence[Message]
    fields: Fields
    runs: list[RunKey]
    run: NDArray[np.intp]
    seq: NDArray[np.uint64]
    tally: Tally
    digest: NDArray[np.uint64]

    def by_run(self) -> Iterator[tuple[RunKey, RunColumns]]:
        """Yield the columns of each run."""
        order = np.argsort(self.run, kind="stable")
        starts = np.searchsorted(self.run[order], np.arange(1, len(self.runs)))
        for key, places in zip(self.runs, np.split(order, starts), strict=True):
            yield (
                key,
                RunColumns(places, self.seq[places], self.tally[places], self.digest[places]),
            )


def columns(messages: Sequence[Message], record_type: RecordType) -> list[Columns]:
    """Columns of these messages in groups of one format; the order is not kept.

    Raises DecodeError naming topic, partition and offset of a value that is not
    a flow record of this type.
    """
    packed: list[Message] = []
    others: dict[str | None, list[Message]] = defaultdict(list)
    for message in messages:
        if len(message.value) == FLOW_RECORD.itemsize and message.value.startswith(_ARRAY16):
            packed.append(message)
        else:
            others[format_of(message.value)].append(message)
    found = []
    if packed:
        found.append(_from_layout(packed, record_type) or _one_by_one(packed, record_type))
    for record_format, group in others.items():
        fast = _from_json(group, record_type) if record_format == "json" else None
        found.append(fast or _one_by_one(group, record_type))
    return found


_ARRAY16: Final = b"\xdc\0"
_RUN: Final = octets_of("agent_epoch", "host_id")


def _from_layout(messages: Sequence[Message], record_type: RecordType) -> Columns | None:
    """Read values of the fixed layout; None unless all are surely records of this type."""
    records = published_flows([message.value for message in messages])
    if records is None or np.any(records["record_type"] != record_type):
        return None
    octets = records.view(np.uint8).reshape(len(records), FLOW_RECORD.itemsize)
    # The key of a run is the epoch's and the host id's 24 octets.
    keys = np.ascontiguousarray(octets[:, _RUN]).view("V24").ravel().tolist()
    tally = Tally.of_flows(records)
    return Columns(
        messages,
        LayoutFields(records),
        *_index(keys, lambda key: RunKey(key[8:], int.from_bytes(key[:8], "big"))),
        seq=records["seq"].astype(np.uint64),
        tally=tally,
        digest=_digests(tally, *(records[name] for name in _TIMES)),
    )


_json: Final = msgspec.json.Decoder(FlowJson).decode


def _from_json(messages: Sequence[Message], record_type: RecordType) -> Columns | None:
    """Read JSON values; None unless all are surely records of this type."""
    try:
        forms: list[Any] = [_json(message.value) for message in messages]
        check_texts(forms)
    except UNDECODABLE:
        return None
    expected = (record_type, SCHEMA_VERSION)
    if any((form.record_type, form.schema_version) != expected for form in forms):
        return None
    keys = [(form.host_id, form.agent_epoch) for form in forms]
    runs = _index(keys, lambda key: RunKey(host_id_bytes(key[0]), key[1]))
    return _collect(messages, forms, runs)


def _one_by_one(messages: Sequence[Message], record_type: RecordType) -> Columns:
    records = []
    for message in messages:
        record = decoded(message)
        if not isinstance(record, FlowRecord) or record.record_type != record_type:
            raise DecodeError(f"{message.place}: a record of type {record.record_type}")
        records.append(record)
    keys = [RunKey(record.host_id, record.agent_epoch) for record in records]
    return _collect(messages, records, _index(keys, RunKey._make))


def _index(
    keys: Iterable[Any], run_key: Callable[[Any], RunKey]
) -> tuple[list[RunKey], NDArray[np.intp]]:
    """Return the runs of the distinct keys, and for each key the index of its run."""
    numbers: dict[Hashable, int] = {}
    run = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)
    return [run_key(key) for key in numbers], run


def _collect(
    messages: Sequence[Message],
    records: Sequence[Any],
    runs: tuple[list[RunKey], NDArray[np.intp]],
) -> Columns:
    fields = RecordFields(records)
    column = fields.integers
    attachments = attachment_codes(column("if_index"), column("flow_direction"))
    tally = Tally(attachments, column("packets"), column("l2_bytes"))
    return Columns(
        messages,
        fields,
        *runs,
        seq=column("seq"),
        tally=tally,
        digest=_digests(tally, *map(column, _TIMES)),
    )


_TIMES: Final = ("time_received_ns", "time_flow_start_ns", "time_flow_end_ns")


def _digests(tally: Tally, *times: NDArray[Any]) -> NDArray[np.uint64]:
    return hashes_of([tally.attachments, tally.packets, tally.l2_bytes, *times])

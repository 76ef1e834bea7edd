"""From published flow records to the few columns that an audit needs.

Values of the fixed layout are read in place by numpy, JSON by msgspec with a
Struct of these fields alone. Whatever does not fit goes through
``flowstream.records.decode``, which accepts it or says what is wrong with it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from flowstream.errors import DecodeError
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.records import SCHEMA_VERSION, CountersRecord, FlowRecord, RecordType, decode
from flowstream.records.decoding import format_of
from flowstream.records.text import host_id_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from flowstream.messages import Message


class RunKey(NamedTuple):
    """Names one run of one agent."""

    host_id: bytes
    agent_epoch: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of n flow records, as published; ``run`` is an index into ``runs``.

    All have one format, that of ``first``, which is one of them.
    """

    first: Message
    runs: list[RunKey]
    run: NDArray[np.intp]
    seq: NDArray[np.uint64]
    in_if: NDArray[np.uint32]
    packets: NDArray[np.uint64]
    l2_bytes: NDArray[np.uint64]


class _Brief(msgspec.Struct, gc=False):
    """The fields of a flow record in JSON that an audit needs."""

    record_type: int
    schema_version: int
    agent_epoch: int
    host_id: str
    seq: int
    in_if: int
    packets: int
    l2_bytes: int


_brief: Final = msgspec.json.Decoder(_Brief).decode


def _places(*prefixes: str) -> NDArray[np.bool_]:
    """Mark the octets of the fields whose name starts with one of these."""
    marked = np.zeros(FLOW_RECORD.itemsize, np.bool_)
    fields: Mapping[str, Any] = FLOW_RECORD.fields or {}
    for name, (kind, start, *_) in fields.items():
        marked[start : start + kind.itemsize] = name.startswith(prefixes)
    return marked


_ARRAY16: Final = 0xDC
_TAGS: Final = _places("tag_", "size_", "array_")
_RUN: Final = _places("agent_epoch", "host_id")


def columns(messages: Sequence[Message], record_type: RecordType) -> list[Columns]:
    """Columns of these messages in groups of one format; the order is not kept.

    Raises DecodeError naming topic, partition and offset of a value that is no
    flow record or one of another type.
    """
    packed: list[Message] = []
    texts: list[Message] = []
    others: dict[str | None, list[Message]] = defaultdict(list)
    for message in messages:
        if len(message.value) == FLOW_RECORD.itemsize and message.value[0] == _ARRAY16:
            packed.append(message)
        elif message.value.startswith(b"{"):
            texts.append(message)
        else:
            others[format_of(message.value)].append(message)
    found = []
    if packed:
        found.append(_from_layout(packed, record_type) or _one_by_one(packed, record_type))
    if texts:
        found.append(_from_json(texts, record_type) or _one_by_one(texts, record_type))
    found += [_one_by_one(group, record_type) for group in others.values()]
    return found


def decode_message(message: Message) -> FlowRecord | CountersRecord:
    """Decode one value; DecodeError names its place."""
    try:
        return decode(message.value)
    except DecodeError as err:
        raise DecodeError(f"{place(message)}: {err}") from err.__cause__


def place(message: Message) -> str:
    """Say where a message stands."""
    return f"topic {message.topic}, partition {message.partition}, offset {message.offset}"


def _from_layout(messages: Sequence[Message], record_type: RecordType) -> Columns | None:
    """Read values of the fixed layout; None when they are not all what they should be."""
    decode_message(messages[0])  # so its tags are right, and those that equal them
    octets = np.frombuffer(b"".join(m.value for m in messages), np.uint8)
    rows = octets.reshape(len(messages), FLOW_RECORD.itemsize)
    records = octets.view(FLOW_RECORD)
    if (
        np.any(rows[:, _TAGS] != rows[0, _TAGS])
        or np.any(records["record_type"] != record_type)
        or np.any(records["schema_version"] != SCHEMA_VERSION)
    ):
        return None
    # A run's key is the epoch's and the host id's 24 octets.
    keys = np.ascontiguousarray(rows[:, _RUN]).view("V24").ravel().tolist()
    return Columns(
        messages[0],
        *_index(keys, lambda key: RunKey(key[8:], int.from_bytes(key[:8], "big"))),
        seq=records["seq"].astype(np.uint64),
        in_if=records["in_if"].astype(np.uint32),
        packets=records["packets"].astype(np.uint64),
        l2_bytes=records["l2_bytes"].astype(np.uint64),
    )


def _from_json(messages: Sequence[Message], record_type: RecordType) -> Columns | None:
    """Read JSON values; None when one of them is not what it should be."""
    expected = (record_type, SCHEMA_VERSION)
    try:
        briefs = [_brief(message.value) for message in messages]
        if any((b.record_type, b.schema_version) != expected for b in briefs):
            return None
        keys = [(brief.host_id, brief.agent_epoch) for brief in briefs]
        runs = _index(keys, lambda key: RunKey(host_id_bytes(key[0]), key[1]))
        return _collect(messages[0], briefs, runs)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _one_by_one(messages: Sequence[Message], record_type: RecordType) -> Columns:
    records = []
    for message in messages:
        record = decode_message(message)
        if not isinstance(record, FlowRecord) or record.record_type != record_type:
            raise DecodeError(f"{place(message)}: a record of type {record.record_type}")
        records.append(record)
    keys = [RunKey(record.host_id, record.agent_epoch) for record in records]
    return _collect(messages[0], records, _index(keys, RunKey._make))


def _index(
    keys: Iterable[Any], run_key: Callable[[Any], RunKey]
) -> tuple[list[RunKey], NDArray[np.intp]]:
    """Give the runs that the different keys name, and for each key the index of its run."""
    numbers: dict[Hashable, int] = {}
    run = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)
    return [run_key(key) for key in numbers], run


def _collect(
    first: Message,
    records: Sequence[_Brief | FlowRecord],
    runs: tuple[list[RunKey], NDArray[np.intp]],
) -> Columns:
    def column(name: str, kind: type[Any]) -> NDArray[Any]:
        return np.fromiter(map(attrgetter(name), records), kind, len(records))

    return Columns(
        first,
        *runs,
        seq=column("seq", np.uint64),
        in_if=column("in_if", np.uint32),
        packets=column("packets", np.uint64),
        l2_bytes=column("l2_bytes", np.uint64),
    )

"""Records to values and messages, by the agent's own encoders."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.accounting.identity import Identity
from flowstream.encode import Prefixes, make_encoder, partition_keys, partitions
from flowstream.encode.partition import counters_key, counters_partition
from flowstream.kernel.records import TEMPLATE
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.messages import Message
from flowstream.records import FlowRecord, RecordType
from flowstream.testing.fields import FIRST_NS, SAMPLER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from flowstream.encode import Encoder
    from flowstream.records import CountersRecord

_PADDED_NAME: Final = 15
# As a schema registry would have numbered the topics' schemas.
_AVRO_PREFIXES: Final = Prefixes({kind: bytes([0, 0, 0, 0, kind]) for kind in RecordType})


def encoder(
    record_format: str, host: str, names: str = "goflow2", *, community_id: bool = False
) -> Encoder:
    """Make the agent's encoder of a format; Avro's values have a registry's prefix."""
    return make_encoder(
        record_format,
        Identity(FIRST_NS, bytes(16), host, SAMPLER),
        names=names,
        community_id=community_id,
        prefixes=_AVRO_PREFIXES if record_format == "avro" else None,
    )


def flow_values(encoder: Encoder, records: Sequence[FlowRecord]) -> list[bytes]:
    """Encode flow records or announcements."""
    return encoder.encode(_columns(records)) if records else []


def flow_messages(
    values: Iterable[bytes], records: Sequence[FlowRecord], topic: str, partition_count: int
) -> list[Message]:
    """Make messages of the values, with the keys and partitions that the agent chooses."""
    if not records:
        return []
    keys = partition_keys(_columns(records))
    places = partitions(keys, partition_count).tolist()
    times = [record.time_received_ns for record in records]
    return _messages(topic, values, [key.tobytes() for key in keys], places, times)


def counters_messages(
    values: Iterable[bytes], records: Sequence[CountersRecord], topic: str, partition_count: int
) -> list[Message]:
    """Make messages of the values, with the keys and partitions that the agent chooses."""
    keys = [counters_key(record) for record in records]
    places = [counters_partition(record, partition_count) for record in records]
    times = [record.time_unix_ns for record in records]
    return _messages(topic, values, keys, places, times)


def _messages(
    topic: str,
    values: Iterable[bytes],
    keys: Sequence[bytes],
    places: Sequence[int],
    times_ns: Sequence[int],
) -> list[Message]:
    offsets: defaultdict[int, int] = defaultdict(int)
    messages = []
    for value, key, place, time_ns in zip(values, keys, places, times_ns, strict=True):
        messages.append(Message(topic, place, offsets[place], time_ns // 1_000_000, key, value))
        offsets[place] += 1
    return messages


def _columns(records: Sequence[FlowRecord]) -> NDArray[np.void]:
    """Return the records as the kernel lays them out: shape (n,), dtype FLOW_RECORD."""
    columns = np.repeat(TEMPLATE, len(records)).astype(FLOW_RECORD)
    for name in FlowRecord.__struct_fields__:
        values = [getattr(record, name) for record in records]
        if name == "if_name":
            values = [value.encode().ljust(_PADDED_NAME, b"\0") for value in values]
        if isinstance(values[0], bytes):
            columns[name] = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
        else:
            columns[name] = values
    return columns

"""Values of records: what ``decode`` accepts the audit accepts, with the same numbers."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from support.published import HOST, NAMES, Published
from support.records import COUNTERS, EPOCH, FIELDS, PREFIXES, SAMPLER, flow_records

from flowstream.accounting.identity import Identity
from flowstream.audit import Audit, tables
from flowstream.audit.columns import columns
from flowstream.encode import FORMATS, PROFILES, make_encoder
from flowstream.errors import DecodeError
from flowstream.messages import Message
from flowstream.records import FlowRecord, RecordType, decode, decode_many
from flowstream.records.decoding import _length_octets, format_of
from flowstream.records.encoding import _varint

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.audit import Result
    from flowstream.records import CountersRecord

_STREAMS: Final = {"flows": 1, "new_flows": 2, "counters": 3}
_IDENTITY: Final = Identity(EPOCH, HOST, "host-a", SAMPLER, NAMES)
_ENCODERS: Final = [make_encoder(name, _IDENTITY, prefixes=PREFIXES.get(name)) for name in FORMATS]
_GOOD: Final = {name: Published(name).values[3][1] for name in FORMATS}
_IF_NAME_OCTETS: Final = 15
_LONGEST_ERROR: Final = 400


def seeds() -> Sequence[bytes]:
    """Return a record of each type in each format, with and without the optional parts."""
    found = []
    for name in FORMATS:
        published = Published(name)
        values = published.messages()
        found += [
            next(m.value for m in values if m.topic.endswith(f".{stream}")) for stream in _STREAMS
        ]
    flow = Published().flows[:1]
    found += [
        make_encoder("json", _IDENTITY, names=names, community_id=True).encode(flow)[0]
        for names in PROFILES
    ]
    behind_prefix = make_encoder("protobuf", _IDENTITY, prefixes=PREFIXES["protobuf"])
    json_flow = _GOOD["json"]
    found.append(json_flow[:-1] + b',"later":' + b"[" * 20_000 + b"]" * 20_000 + b"}")
    return [*found, *behind_prefix.encode(flow), behind_prefix.encode_counters(COUNTERS)]


_STRANGE: Final[list[Any]] = [
    *(sign * 2**bits + more for bits in (0, 7, 8, 16, 32, 53, 63, 64) for sign in (1, -1)
      for more in (-1, 0)),
    *(10**30, 1.0, 1.5, 1e300, None, True, "", "\0", "\u00e9" * 15, "a" * 16, "10.0.0.1", "::"),
    *("::ffff:10.0.0.1", "fe80::1%1", "00" * 16, "AA:bb:cc:dd:ee:ff", [], {}, {"": {}}),
    *({"x": {"packets": -1, "l2_bytes": 2**63}}, {"x": {}}),
]  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a record where octets at random would only break the form."""
    record_format = format_of(data)
    if record_format == "protobuf" and data[0]:
        inner = data[_length_octets(data) :]
        at, cut = sorted(rng.randrange(len(inner) + 1) for _ in range(2))
        inner = rng.choice((inner[:at] + rng.randbytes(2) + inner[cut:], inner + inner[at:cut]))
        return _varint(len(inner)) + inner
    try:
        values = json.loads(data) if record_format == "json" else msgspec.msgpack.decode(data)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return data
    if not isinstance(values, (dict, list)) or not values:
        return data
    places = list(values) if isinstance(values, dict) else list(range(len(values)))
    place, strange = rng.choice(places), rng.choice(_STRANGE)
    if record_format == "json" and rng.random() < 0.1:
        del values[place]
    else:
        values[place] = strange
    try:
        return (
            json.dumps(values).encode()
            if record_format == "json"
            else msgspec.msgpack.encode(values)
        )
    except (OverflowError, UnicodeError):
        return data


def target(data: bytes) -> None:
    """Decode, audit and encode again."""
    record: FlowRecord | CountersRecord | None = None
    refusal = ""
    try:
        record = decode(data)
    except DecodeError as err:
        refusal = str(err)
        assert refusal.isprintable()
        assert len(refusal) < _LONGEST_ERROR
    else:
        assert decode_many([data, data]) == [record, record]
    for stream, record_type in _STREAMS.items():
        message = Message(f"flowstream.{stream}", 3, 7, 0, b"", data)
        expected = refusal
        if record is not None and record.record_type != record_type:
            expected = f"a record of type {record.record_type}"
        _audit(message, expected)
    if record is None:
        return
    if isinstance(record, FlowRecord):
        _check_columns(data, record)
        _check_flow(record)
    else:
        _check_counters(record)
    if data.startswith(b"{"):
        _check_json(data, record)


def _audit(message: Message, expected: str) -> None:
    told = ""
    audit = Audit()
    try:
        audit.add([message])
    except DecodeError as err:
        told = str(err).removeprefix(f"topic {message.topic}, partition 3, offset 7: ")
    assert told == expected, (told, expected)
    # Of flow records no text is shown.
    if not told and message.topic.endswith(".counters"):
        _show(audit.result())


def _show(result: Result) -> None:
    """Print it as the command does: nothing of a value reaches a terminal raw."""
    shown = io.StringIO()
    tables.show(result, shown)
    assert all(" " <= char <= "~" or char == "\n" for char in shown.getvalue())
    assert json.loads(msgspec.json.encode(result))["holds"] == result.holds


def _check_columns(data: bytes, record: FlowRecord) -> None:
    """Check that the audit reads the same numbers, between other values of that format."""
    good = _GOOD[str(format_of(data))]
    if record.record_type != RecordType.FLOW:
        good = data
    messages = [Message("t", 0, number, 0, b"", each) for number, each in enumerate((good, data))]
    found = columns(messages, RecordType(record.record_type))
    rows = [
        (key, int(seq), *tally)
        for part in found
        for key, mine in part.by_run()
        for seq, tally in zip(mine.seq, _rows(mine.tally), strict=True)
    ]
    expected = [_row(decode(each)) for each in (good, data)]
    assert sorted(rows) == sorted(expected)


def _rows(tally: Any) -> list[tuple[int, int, int]]:
    return list(
        zip(
            tally.attachments.tolist(),
            tally.packets.tolist(),
            tally.l2_bytes.tolist(),
            strict=True,
        )
    )


def _row(record: Any) -> tuple[Any, ...]:
    return (
        (record.host_id, record.agent_epoch),
        record.seq,
        record.if_index << 1 | record.flow_direction,
        record.packets,
        record.l2_bytes,
    )


def _check_flow(record: FlowRecord) -> None:
    name = record.if_name.rstrip("\0")
    same = msgspec.structs.replace(record, if_name=name)
    assert decode(msgspec.msgpack.encode(record)) == same
    # Such a name is no interface's, and no encoder gets it.
    if "\0" in name or len(name.encode()) > _IF_NAME_OCTETS:
        return
    for encoder in _ENCODERS:
        (value,) = encoder.encode(_layout(same))
        assert decode(value) == same


def _layout(record: FlowRecord) -> NDArray[np.void]:
    """Put a record into the kernel's layout."""
    values = {}
    for name in FIELDS:
        value = getattr(record, name)
        if isinstance(value, str):
            value = value.encode().ljust(_IF_NAME_OCTETS, b"\0")
        values[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return flow_records(1, **values)


def _check_counters(record: CountersRecord) -> None:
    for encoder in _ENCODERS:
        assert decode(encoder.encode_counters(record)) == record


def _check_json(data: bytes, record: FlowRecord | CountersRecord) -> None:
    """Compare the numbers with those that the standard library reads."""
    try:
        values = json.loads(data)
    except ValueError:
        return  # msgspec does not look into fields that it skips
    for name, value in values.items():
        if isinstance(value, (int, float)) and hasattr(record, name):
            assert getattr(record, name) == value, name

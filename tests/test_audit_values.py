from __future__ import annotations

import itertools
import json

import msgspec
import pytest
from support.audited import problems_of, result_of
from support.published import EPOCH, FLOWS, PARTITIONS, Published
from support.records import COUNTERS, random_flows

from flowstream.audit import Audit
from flowstream.encode import stamp
from flowstream.errors import DecodeError
from flowstream.messages import Message
from flowstream.records import decode

STEP = 1_024  # of agent_epoch
FORMATS = ["json", "msgpack", "protobuf", "avro"]


@pytest.fixture(params=FORMATS)
def record_format(request) -> str:
    return request.param


def test_formats_that_are_mixed_in_one_topic_are_told():
    published = Published("json")
    for place, other in enumerate(("msgpack", "protobuf", "avro")):
        published.values[place + 5] = Published(other).values[place + 5]
    assert problems_of(published) == []
    (warning,) = result_of(published).warnings
    assert warning.startswith("values of 4 formats in one topic: ")
    for place, other in enumerate(("msgpack", "protobuf", "avro"), 5):
        where = f"topic flowstream.flows, partition {place % PARTITIONS}, offset {place}"
        assert f"{other} at {where}" in warning
    assert result_of(Published("json"), Published("json", epoch=EPOCH + STEP)).warnings == []


def test_fields_added_at_the_end_are_accepted():
    published, packed = Published("json"), Published("msgpack")
    for number in (3, 4):
        topic, value = packed.values[number]
        published.values[number] = (
            topic,
            value[:2] + bytes([value[2] + 2]) + value[3:] + b"\xa0\x2a",
        )
    topic, value = published.values[5]
    published.values[5] = (topic, value[:-1] + b',"later":[7]}')
    assert problems_of(published) == []


def packed_or_text(old: bytes, new: bytes, old_text: bytes, new_text: bytes):
    return lambda value: value.replace(old, new, 1).replace(old_text, new_text, 1)


BAD = {
    "empty": lambda _: b"",
    "cut": lambda value: value[:-1],
    "text": lambda _: b"hello",
    "registry": lambda value: b"\x00" + value,
    "counters": lambda _: msgspec.msgpack.encode(COUNTERS),
}


# Of the formats that say of every field what it is.
WRONG = {
    "longer": lambda value: value + b"\x00",
    "tag": packed_or_text(b"\xcf", b"\xce", b'"packets":', b'"packets":-'),
    "version": packed_or_text(
        b"\xcc\x01\xcc\x01", b"\xcc\x01\xcc\x00", b'"schema_version":1', b'"schema_version":0'
    ),
}


@pytest.mark.parametrize(
    ("record_format", "damage"),
    [
        *itertools.product(FORMATS, BAD.values()),
        *itertools.product(["json", "msgpack"], WRONG.values()),
    ],
)
def test_an_undecodable_value_is_named_with_its_place(record_format, damage):
    published = Published(record_format)
    topic, value = published.values[11]
    published.values[11] = (topic, damage(value))
    assert published.values[11][1] != value
    messages = published.messages()
    (at,) = (message for message in messages if message.offset == 11)
    with pytest.raises(
        DecodeError, match=f"^topic flowstream.flows, partition {at.partition}, offset 11: "
    ):
        Audit().add(messages)


def judged(value: bytes, topic: str = "flowstream.flows") -> str:
    """What an audit of this one value says against it, nothing if it takes it."""
    try:
        Audit().add([Message(topic, 3, 7, 0, b"", value)])
    except DecodeError as err:
        return str(err)
    return ""


def refused(value: bytes) -> str:
    """What ``decode`` says against a value of the topic flows, with its place."""
    where = "topic flowstream.flows, partition 3, offset 7: "
    try:
        record = decode(value)
    except DecodeError as err:
        return f"{where}{err}"
    return "" if record.record_type == 1 else f"{where}a record of type {record.record_type}"


def test_octets_of_the_layout_are_refused_as_decode_refuses_them():
    _, value = Published("msgpack").values[3]
    refusals = 0
    for place in range(len(value)):
        for octet in (0x00, 0x01, 0x02, 0x03, 0x7F, 0x80, 0x81, 0xC3, 0xFF):
            changed = value[:place] + bytes([octet]) + value[place + 1 :]
            assert judged(changed) == refused(changed), (place, octet)
            refusals += bool(refused(changed))
    assert 400 < refusals < 1_500


STRANGE = [
    -1,
    0,
    2,
    3,
    129,
    256,
    2**16,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    1.5,
    1e30,
    None,
    "",
    "\u00e9" * 16,
    "10.0.0.256",
    "zz" * 16,
    [],
    {},
    True,
]


def test_json_is_refused_as_decode_refuses_it():
    _, value = Published("json").values[3]
    fields = json.loads(value)
    refusals = 0
    for name in fields:
        changes = [fields | {name: strange} for strange in STRANGE]
        changes.append({other: fields[other] for other in fields if other != name})
        for change in changes:
            changed = json.dumps(change).encode()
            assert judged(changed) == refused(changed), change
            refusals += bool(refused(changed))
    assert refusals > 500


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "Object missing required field `host`"),
        ({"agent_epoch": -1}, r"Expected `int` >= 0 - at `$.agent_epoch`"),
        ({"packets": 10**29}, r"Expected `int` <= 9223372036854775807 - at `$.packets`"),
        ({"packets": "many"}, r"Expected `int`, got `str` - at `$.packets`"),
    ],
)
def test_json_that_is_no_record_is_named_with_its_place(changes, reason):
    fields = json.loads(Published("json").values[3][1])
    if not changes:
        names = (
            "record_type",
            "schema_version",
            "agent_epoch",
            "host_id",
            "seq",
            "if_index",
            "packets",
            "l2_bytes",
        )
        fields = {name: fields[name] for name in names}
    told = judged(json.dumps(fields | changes).encode())
    assert told == f"topic flowstream.flows, partition 3, offset 7: not a record: {reason}"


def test_announcements_are_never_summed(record_format):
    published = Published(record_format)
    announced = random_flows(1)
    announced["record_type"] = 2
    stamp(announced, published.identity, 0)
    (value,) = published.encode(announced)
    published.values[FLOWS] = ("flowstream.new_flows", value)
    packets = int(announced["packets"][0])
    assert packets > 0
    assert problems_of(published) == [
        f"announcements of {packets:,} packets, which are counted in flow records"
    ]


def test_an_unknown_schema_version_is_named_with_its_place(record_format):
    published = Published(record_format)
    published.flows["schema_version"][11] = 2
    published.values[11] = ("flowstream.flows", published.encode(published.flows)[11])
    with pytest.raises(
        DecodeError,
        match=r"^topic flowstream.flows, partition 1, offset 11: not a record: schema version 2, "
        "and this flowstream knows 1; upgrade it$",
    ):
        Audit().add(published.messages())
    published = Published(record_format)
    published.change_counters(1, schema_version=2)
    with pytest.raises(DecodeError, match=r"^topic flowstream.counters, .*: schema version 2"):
        Audit().add(published.messages())


@pytest.mark.parametrize(("topic", "taken"), [("flows", 33), ("new_flows", 3), ("counters", 3)])
def test_a_record_in_the_wrong_topic_is_named(record_format, topic, taken):
    value = Published(record_format).values[taken][1]
    with pytest.raises(DecodeError, match="partition 3, offset 7: a record of type"):
        Audit().add([Message(f"flowstream.{topic}", 3, 7, 0, b"", value)])

"""Decoding published values: golden bytes by field, and values that are no record."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.columns import any_columns
from support.records import (
    COUNTERS,
    FIELDS,
    PREFIXES,
    SAMPLER,
    encoder_of,
    flow_records,
    random_flows,
)

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder
from flowstream.encode.value_builder import varint
from flowstream.errors import DecodeError
from flowstream.records import (
    CountersRecord,
    FlowRecord,
    RecordType,
    SpoolCounts,
    decode,
    decode_many,
)
from flowstream.records.decoding import format_of

IDENTITY = Identity(0, bytes(16), "host-a", SAMPLER)
JSON, MSGPACK, PROTOBUF, AVRO = (
    encoder_of(name, IDENTITY) for name in ("json", "msgpack", "protobuf", "avro")
)
PROTOBUF_IN_REGISTRY = make_encoder("protobuf", IDENTITY, prefixes=PREFIXES["protobuf"])

FLOW = random_flows(1)
VALUES = {
    "msgpack flow": MSGPACK.encode(FLOW)[0],
    "json flow": JSON.encode(FLOW)[0],
    "protobuf flow": PROTOBUF.encode(FLOW)[0],
    "msgpack counters": MSGPACK.encode_counters(COUNTERS),
    "json counters": JSON.encode_counters(COUNTERS),
    "protobuf counters": PROTOBUF.encode_counters(COUNTERS),
}
# Behind a registry's prefix: these have no length.
PREFIXED_VALUES = {
    "protobuf flow in a registry": PROTOBUF_IN_REGISTRY.encode(FLOW)[0],
    "avro flow": AVRO.encode(FLOW)[0],
    "protobuf counters in a registry": PROTOBUF_IN_REGISTRY.encode_counters(COUNTERS),
    "avro counters": AVRO.encode_counters(COUNTERS),
}
ALL_VALUES = VALUES | PREFIXED_VALUES
FLOW_OBJECT = json.loads(VALUES["json flow"])
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


ADDRESS = "20010db8000000000000000000000001"
MAPPED = "00000000000000000000ffff0a000001"

# field, value set, offset of its tag, bytes from there on, value decoded
GOLDEN = [
    ("record_type", 2, 3, "cc02", 2),
    ("schema_version", 1, 5, "cc01", 1),
    ("agent_epoch", 0x0102030405060708, 7, "cf0102030405060708", 0x0102030405060708),
    ("host_id", ADDRESS, 16, f"c410{ADDRESS}", bytes.fromhex(ADDRESS)),
    ("sampler_address", MAPPED, 34, f"c410{MAPPED}", bytes.fromhex(MAPPED)),
    ("seq", 2**63 - 1, 52, "cf7fffffffffffffff", 2**63 - 1),
    ("time_received_ns", 3, 61, "cf0000000000000003", 3),
    ("time_flow_start_ns", 5, 70, "cf0000000000000005", 5),
    ("time_flow_end_ns", 7, 79, "cf0000000000000007", 7),
    ("etype", 0x86DD, 88, "cd86dd", 0x86DD),
    ("proto", 132, 91, "cc84", 132),
    ("src_addr", MAPPED, 93, f"c410{MAPPED}", bytes.fromhex(MAPPED)),
    ("dst_addr", ADDRESS, 111, f"c410{ADDRESS}", bytes.fromhex(ADDRESS)),
    ("src_net", 24, 129, "cc18", 24),
    ("dst_net", 128, 131, "cc80", 128),
    ("src_port", 0x0102, 133, "cd0102", 0x0102),
    ("dst_port", 0xFFFE, 136, "cdfffe", 0xFFFE),
    ("icmp_type", 8, 139, "cc08", 8),
    ("icmp_code", 13, 141, "cc0d", 13),
    ("tcp_flags", 0xFF, 143, "ccff", 0xFF),
    ("ip_tos", 0xB8, 145, "ccb8", 0xB8),
    ("ip_ttl", 61, 147, "cc3d", 61),
    ("vlan_id", 4_093, 149, "cd0ffd", 4_093),
    ("if_index", 0x01020304, 152, "ce01020304", 0x01020304),
    ("if_name", b"eth0".hex() + 11 * "00", 157, "af65746830" + 11 * "00", "eth0"),
    ("src_mac", "0200000000fe", 173, "c4060200000000fe", bytes.fromhex("0200000000fe")),
    ("dst_mac", "ffffffffffff", 181, "c406ffffffffffff", b"\xff" * 6),
    ("packets", 1_009, 189, "cf00000000000003f1", 1_009),
    ("bytes", 2**63 - 1, 198, "cf7fffffffffffffff", 2**63 - 1),
    ("l2_bytes", 2**32, 207, "cf0000000100000000", 2**32),
    ("flow_count", 2**32 - 1, 216, "ceffffffff", 2**32 - 1),
    ("sampling_rate", 2**32 - 1, 221, "ceffffffff", 2**32 - 1),
    ("end_reason", 4, 226, "cc04", 4),
    ("flow_direction", 1, 228, "cc01", 1),
]


def test_golden_values_cover_every_field_in_order():
    assert [each[0] for each in GOLDEN] == FIELDS == list(FlowRecord.__struct_fields__)


@pytest.mark.parametrize(("field", "value", "offset", "wire", "decoded"), GOLDEN)
def test_golden_bytes(field, value, offset, wire, decoded):
    column = np.frombuffer(bytes.fromhex(value), np.uint8) if isinstance(value, str) else value
    records = flow_records(1, **{field: column})
    (encoded,) = MSGPACK.encode(records)
    expected = bytes.fromhex(wire)
    assert encoded[offset : offset + len(expected)] == expected
    assert len(encoded) == 230
    for encoder in (MSGPACK, JSON, PROTOBUF, AVRO):
        assert getattr(decode(encoder.encode(records)[0]), field) == decoded


@pytest.mark.parametrize(
    ("wire", "etype", "text"),
    [
        (MAPPED, 0x0800, "10.0.0.1"),
        (MAPPED, 0x86DD, "::ffff:10.0.0.1"),
        (ADDRESS, 0x86DD, "2001:db8::1"),
        ("00" * 16, 0x86DD, "::"),
        ("00" * 10 + "ff" * 6, 0x0800, "255.255.255.255"),
        ("fe80" + "00" * 12 + "0101", 0x86DD, "fe80::101"),
        ("20010db8" + "1234" * 6, 0x86DD, "2001:db8:1234:1234:1234:1234:1234:1234"),
    ],
)
def test_addresses_and_macs_as_text(wire, etype, text):
    address = np.frombuffer(bytes.fromhex(wire), np.uint8)
    mac = [2, 0, 0, 0, 0, 0xFE]
    records = flow_records(
        1, etype=etype, src_addr=address, dst_addr=address, src_mac=mac, dst_mac=mac
    )
    record = decode(MSGPACK.encode(records)[0])
    assert record.source == record.destination == ip_address(text)
    assert record.source_mac == record.destination_mac == "02:00:00:00:00:fe"
    written = json.loads(JSON.encode(records)[0])
    assert written["src_addr"] == written["dst_addr"] == text
    assert written["src_mac"] == written["dst_mac"] == "02:00:00:00:00:fe"
    (in_avro,) = AVRO.encode(records)
    encoded = bytes([2 * len(text)]) + text.encode()
    assert encoded + encoded in in_avro
    assert in_avro.count(b"\x2202:00:00:00:00:fe") == 2


@pytest.mark.parametrize("etype", [0x0800, 0x86DD])
def test_the_agents_own_address_depends_on_no_packet(etype):
    records = flow_records(1, etype=etype, sampler_address=np.frombuffer(SAMPLER, np.uint8))
    assert json.loads(JSON.encode(records)[0])["sampler_address"] == "192.0.2.1"
    assert b"\x12192.0.2.1" in AVRO.encode(records)[0]
    # Field 11, 4 octets.
    assert b"\x5a\x04\xc0\x00\x02\x01" in PROTOBUF.encode(records)[0]
    assert {
        decode(each.encode(records)[0]).sampler_address for each in (JSON, AVRO, PROTOBUF)
    } == {SAMPLER}


def test_new_flow():
    flow, announcement = decode_many(MSGPACK.encode(flow_records(2, record_type=[1, 2])))
    assert not flow.is_new_flow
    assert announcement.is_new_flow


def test_records_are_values():
    one, same, other = decode_many(MSGPACK.encode(flow_records(3, seq=[3, 3, 5])))
    assert {one, same, other} == {one, other}
    with pytest.raises(AttributeError):
        one.seq = 7


@pytest.mark.parametrize("encoder", [JSON, MSGPACK, PROTOBUF, AVRO, PROTOBUF_IN_REGISTRY])
def test_counters_round_trip(encoder):
    """Reasons and causes that this version does not know are in the maps too."""
    assert "a reason of a newer version" in COUNTERS.no_flow
    assert decode(encoder.encode_counters(COUNTERS)) == COUNTERS


def test_counters_start_as_a_consumer_expects():
    assert VALUES["msgpack counters"].startswith(b"\xdc\x00\x1f\x03")
    assert VALUES["json counters"].startswith(b'{"record_type":3,"schema_version":1,')
    assert json.loads(VALUES["json counters"])["host_id"] == bytes(range(16)).hex()


@every_value
def test_cut_at_every_byte(value):
    for length in range(len(value)):
        with pytest.raises(DecodeError):
            decode(value[:length])


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("garbage", [b"\0", b"{", b"\xc0"])
def test_trailing_garbage(name, garbage):
    # Protobuf's length is then wrong, so it is no longer known as such.
    reason = "neither" if name.startswith("protobuf") else "trailing"
    with pytest.raises(DecodeError, match=reason):
        decode(VALUES[name] + garbage)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"\x00", "schema registry"),
        (b"\x00\x00\x00\x00\x01rest", "schema registry"),
        (b"\x00\x00\x00\x00\x01", "schema registry"),
        (b"\x00\x00\x00\x00\x01\x00", "unknown record type 0"),
        (b"\x00\x00\x00\x00\x01\x02", "Avro that cannot be read"),
        (b"\x02\x18\x01", "unknown record type 0"),
        (b"\x18\x01", "neither"),
        (b"\xff", "neither JSON, MessagePack, Protobuf nor .* prefix .first octet 0xff"),
        (b" {}", "neither"),
        (b"\xdd\x00\x00\x00\x00", "neither"),
        (b'{"record_type":4}', "unknown record type 4"),
        (b'{"record_type":0}', "unknown record type 0"),
        (b"\xdc\x00\x01\x04", "unknown record type 4"),
        (b"{}", "record_type"),
        (b"\xdc\x00\x00", "length"),
        (b"\xdc\x00\x01\x01", "at least length 34"),
        (b"\xdc\x00\x01\x03", "at least length 28"),
        (b'{"record_type":1}', "schema_version"),
        # An Avro datum without a registry's prefix has no mark.
        (AVRO.encode(FLOW)[0][5:], "neither"),
    ],
)
def test_what_is_no_record(value, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(value)


BOMBS = {
    "json arrays": b'{"record_type":1,"x":' + b"[" * 100_003,
    "json objects": b'{"record_type":3,"x":' + b'{"x":' * 100_003,
    "msgpack instead of a field": b"\xdc\xff\xff\xcc\x01" + b"\x91" * 100_003,
    "msgpack after the fields": b"\xdc\x00\x23" + VALUES["msgpack flow"][3:] + b"\x91" * 100_003,
    "4 GB of text": b"\xdc\x00\x23" + VALUES["msgpack flow"][3:] + b"\xdb\xff\xff\xff\xff",
    "4 G elements": b"\xdc\x00\x23" + VALUES["msgpack flow"][3:] + b"\xdd\xff\xff\xff\xff",
    "4 G pairs": b"\xdc\x00\x23" + VALUES["msgpack flow"][3:] + b"\xdf\xff\xff\xff\xff",
    "4 GB host_id": VALUES["msgpack flow"].replace(b"\xc4\x10", b"\xc6\xff\xff\xff\xff", 1),
    "long integer": b'{"record_type":' + b"1" * 100_003 + b"}",
}


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_bombs(value):
    with pytest.raises(DecodeError):
        decode(value)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "record_type"])
def test_wrong_type_in_every_field(field):
    fields = list(msgspec.msgpack.decode(VALUES["msgpack flow"]))
    for wrong in ([], None, 1.5, -1, b"x" * 17):
        fields[FIELDS.index(field)] = wrong
        with pytest.raises(DecodeError, match=rf"\[{FIELDS.index(field)}\]"):
            decode(msgspec.msgpack.encode(fields))
        with pytest.raises(DecodeError):
            decode(json.dumps(FLOW_OBJECT | {field: [wrong and str(wrong)]}).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema_version": 0},
        {"schema_version": -1},
        {"proto": 256},
        {"src_port": 65_536},
        {"packets": 2**63},
        {"packets": 2**64},
        {"src_net": 129},
        {"flow_direction": 2},
        {"in_if": -1},
        {"sampler_address": "agent"},
        {"packets": -1},
        {"packets": True},
        {"src_addr": ""},
        {"src_addr": "10.0.0.256"},
        {"src_addr": "10.0.0.1/8"},
        {"src_addr": "2001:db8:::1"},
        {"src_addr": "10.0.0.1\0"},
        {"dst_addr": "é"},
        {"src_mac": "02:00:00:00:00"},
        {"src_mac": "020000000001"},
        {"dst_mac": "02:00:00:00:00:0g"},
        {"host_id": "00"},
        {"host_id": " " * 32},
        {"host_id": "00 " * 16},
    ],
    ids=str,
)
def test_wrong_values_in_json(wrong):
    with pytest.raises(DecodeError):
        decode(json.dumps(FLOW_OBJECT | wrong).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"attach_mode": "auto"},
        {"seen_packets": 2**63},
        {"losses": []},
        {"no_flow": {"non_ip": {"packets": 1}}},
        {"stages": {"flows": 1}},
        {"sampler_address": "agent"},
        {"spool": 1},
        {"spool": {"records": 1}},
        {"netns": 7},
        {"previous_epoch": 2**63},
        {"previous_epoch": "1"},
    ],
    ids=str,
)
def test_wrong_values_in_json_counters(wrong):
    with pytest.raises(DecodeError):
        decode(json.dumps(json.loads(VALUES["json counters"]) | wrong).encode())


# Fields that were added to the counters, in their order, and their defaults.
ADDED_LATER = {"spool": SpoolCounts(0, 0, 0, 0, 0), "netns": "", "previous_epoch": 0}
NUMBERS = {"spool": 1119, "netns": 1120, "previous_epoch": 1121}
BEHIND = {name: list(ADDED_LATER)[place:] for place, name in enumerate(ADDED_LATER)}


@pytest.mark.parametrize("first", ADDED_LATER)
def test_counters_of_older_agents_are_read(first):
    """Their values end before the field; Avro's readers use the default."""
    missing = BEHIND[first]
    older = msgspec.structs.replace(COUNTERS, **{name: ADDED_LATER[name] for name in missing})
    fields = msgspec.msgpack.decode(VALUES["msgpack counters"])
    assert decode(msgspec.msgpack.encode(fields[: -len(missing)])) == older
    named = json.loads(VALUES["json counters"])
    for name in missing:
        del named[name]
    assert decode(json.dumps(named).encode()) == older
    kind = 0 if first == "previous_epoch" else 2
    tag = varint(NUMBERS[first] << 3 | kind)
    message = PREFIXED_VALUES["protobuf counters in a registry"][6:].partition(tag)[0]
    assert decode(varint(len(message)) + message) == older


def test_added_fields_are_written_also_where_they_are_empty():
    """Engines infer columns from the first records."""
    empty = msgspec.structs.replace(COUNTERS, **ADDED_LATER)
    written = json.loads(JSON.encode_counters(empty))
    assert list(written)[-len(ADDED_LATER) :] == list(ADDED_LATER)
    assert (written["netns"], written["previous_epoch"]) == ("", 0)


@pytest.mark.parametrize("name", ["msgpack flow", "msgpack counters"])
def test_fields_that_were_added_are_ignored(name):
    fields = msgspec.msgpack.decode(VALUES[name])
    newer = decode(msgspec.msgpack.encode([*fields, "added", [1, {"a": b"b"}]]))
    assert newer == decode(VALUES[name])


@pytest.mark.parametrize("name", ["json flow", "json counters"])
def test_properties_that_were_added_are_ignored(name):
    newer = decode(json.dumps(json.loads(VALUES[name]) | {"x": [1]}).encode())
    assert newer == decode(VALUES[name])


# A field of number 2000 and one octet; a text at the end of a datum.
ADDED = {"protobuf": b"\x82\x7d\x01x", "avro": b"\x02x"}


@pytest.mark.parametrize("name", PREFIXED_VALUES)
def test_binary_fields_that_were_added_are_ignored(name):
    value = PREFIXED_VALUES[name]
    assert decode(value + ADDED[name.partition(" ")[0]]) == decode(value)


@pytest.mark.parametrize("kind", ["flow", "counters"])
def test_protobuf_fields_that_were_added_are_ignored(kind):
    message = PREFIXED_VALUES[f"protobuf {kind} in a registry"][6:] + ADDED["protobuf"]
    assert decode(varint(len(message)) + message) == decode(VALUES[f"protobuf {kind}"])


@pytest.mark.parametrize("name", ALL_VALUES)
@pytest.mark.parametrize("change", [{}, {"packets": "?", "seen_packets": "?"}])
def test_unknown_schema_version_is_named_whatever_else_it_has(name, change):
    value = ALL_VALUES[name]
    if name.startswith("json"):
        value = json.dumps(json.loads(value) | {"schema_version": 2} | change).encode()
    elif name.startswith("msgpack"):
        fields = msgspec.msgpack.decode(value)
        value = msgspec.msgpack.encode([fields[0], 2, *(fields[2:] if not change else ["?"] * 40)])
    elif name.startswith("avro"):
        value = value[:6] + b"\x04" + value[7:]
    elif name.endswith("registry"):  # the last one counts
        value += b"\xc8\x3e\x02"
    else:
        message = PREFIXED_VALUES[f"{name} in a registry"][6:] + b"\xc8\x3e\x02"
        value = varint(len(message)) + message
    with pytest.raises(
        DecodeError,
        match=r"^not a record: schema version 2, and this flowstream knows 1; upgrade it$",
    ):
        decode(value)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_numbers_of_64_bits_are_refused_in_every_format(number):
    message = PREFIXED_VALUES["protobuf flow in a registry"][6:] + b"\x50" + varint(number)
    for value in (
        MSGPACK.encode(flow_records(1, packets=number))[0],
        json.dumps(FLOW_OBJECT | {"packets": number}).encode(),
        varint(len(message)) + message,
    ):
        with pytest.raises(
            DecodeError, match=r"Expected `int` <= 9223372036854775807|out of range"
        ):
            decode(value)


@given(columns=any_columns(), community_id=st.booleans())
def test_every_format_decodes_to_the_same_record(columns, community_id):
    """Also: every value is told apart from those of the other formats."""
    flow = flow_records(1, **columns)
    (wire,) = MSGPACK.encode(flow)
    expected = decode(wire)
    assert format_of(wire) == "msgpack"
    for name in ("json", "protobuf", "avro"):
        for prefixes in [None] * (name == "protobuf") + [PREFIXES.get(name)]:
            encoder = make_encoder(name, IDENTITY, community_id=community_id, prefixes=prefixes)
            (value,) = encoder.encode(flow)
            assert format_of(value) == name
            assert decode(value) == expected


@given(columns=any_columns(), host=st.text(max_size=300), community_id=st.booleans())
def test_protobuf_of_any_length_is_told_apart(columns, host, community_id):
    identity = Identity(0, bytes(16), host, SAMPLER)
    encoder = make_encoder("protobuf", identity, community_id=community_id)
    (value,) = encoder.encode(flow_records(1, **columns))
    assert format_of(value) == "protobuf"


def protobuf_of(length: int) -> bytes:
    """A flow's value whose message has just that length, by the host's name."""
    for octets in range(300):
        identity = Identity(0, bytes(16), "h" * octets, SAMPLER)
        (value,) = make_encoder("protobuf", identity).encode(flow_records(1))
        if value.startswith(varint(length)) and len(value) - len(varint(length)) == length:
            return value
    raise AssertionError(length)


@pytest.mark.parametrize("length", [ord("{"), 0xDC & 0x7F, 0x7F, 0x80, 0xDC, 0x15C, 0x80 | 0x7B])
def test_lengths_of_protobuf_that_begin_as_another_format(length):
    """ "{" and 0xdc, and lengths of one and two octets around them."""
    value = protobuf_of(length)
    assert format_of(value) == "protobuf"
    assert decode(value).schema_version == 1


def test_no_record_of_another_format_has_the_length_that_is_a_brace():
    """The shortest JSON records are longer than the brace and 123 octets."""
    smallest = Identity(0, bytes(16), "", SAMPLER)
    counters = msgspec.structs.replace(
        COUNTERS, no_flow={}, losses={}, in_doubt={}, stages={}, host="", agent_version=""
    )
    encoder = make_encoder("json", smallest)
    assert len(encoder.encode(flow_records(1))[0]) > 500
    assert len(encoder.encode_counters(counters)) > 400


@pytest.mark.parametrize("name", PREFIXED_VALUES)
def test_prefixed_values_that_are_cut(name):
    value = PREFIXED_VALUES[name]
    for length in range(len(value)):
        try:
            record = decode(value[:length])
        except DecodeError:
            continue
        # Protobuf leaves zeros and empty texts out, and a map may be empty.
        assert name.startswith("protobuf")
        assert record.record_type in list(RecordType)


@pytest.mark.parametrize(
    ("record_format", "library"), [("protobuf", "google"), ("avro", "fastavro")]
)
def test_without_its_library_a_format_is_named_with_the_remedy(record_format, library):
    program = (
        f"import sys; sys.modules[{library!r}] = None; from flowstream.records import decode; "
        f"decode({ALL_VALUES[f'{record_format} flow']!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    remedy = f"{record_format} requires: pip install 'flowstream[readers]'"
    assert f"MissingExtraError: {remedy}" in done.stderr


def test_decode_many_is_decode_of_each():
    flows = MSGPACK.encode(random_flows(13))
    assert decode_many(iter(flows)) == [decode(value) for value in flows]
    mixed = [*flows, *ALL_VALUES.values()]
    assert decode_many(mixed) == [decode(value) for value in mixed]
    assert decode_many([]) == []


@pytest.mark.parametrize("bad", [b"", b"\0", VALUES["msgpack flow"][:-1], b"\xdd\0\0\0\x22"])
def test_decode_many_names_the_bad_value(bad):
    with pytest.raises(DecodeError, match="value 5: not a record: "):
        decode_many([*MSGPACK.encode(random_flows(5)), bad, bad])


def test_decode_many_takes_only_what_decode_takes():
    array32 = b"\xdd\0\0\0\x22" + VALUES["msgpack flow"][3:]
    with pytest.raises(DecodeError, match=r"value 1: .* neither"):
        decode_many([VALUES["msgpack flow"], array32])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_decode_error(tail):
    heads = (
        b"",
        b"\xdc",
        b"{",
        b"\xdc\x00\x22\xcc\x01",
        b"\0\0\0\0\1\2\2",
        b"\0\0\0\0\1\6\2",
        b"\0\0\0\0\1\0",
        varint(len(tail)),
    )
    for value in (head + tail for head in heads):
        try:
            assert isinstance(decode(value), FlowRecord | CountersRecord)
        except DecodeError:
            continue


@given(st.sampled_from(list(ALL_VALUES)), st.integers(0, 2_000), st.integers(0, 255))
def test_any_changed_byte_gives_a_record_or_a_decode_error(name, position, octet):
    value = bytearray(ALL_VALUES[name])
    value[position % len(value)] = octet
    try:
        assert decode(bytes(value)).record_type in list(RecordType)
    except DecodeError:
        return
